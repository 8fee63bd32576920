"""The CPU and GPU stacks of the compose files, merged as by compose."""

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
BASE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
OVERRIDE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.gpu.yml").read_text())


def merge(base: Any, override: Any) -> Any:
    """Merge mappings, concatenate lists, replace everything else, as compose does."""
    if isinstance(base, dict) and isinstance(override, dict):
        return base | {
            key: merge(base[key], value) if key in base else value
            for key, value in override.items()
        }
    if isinstance(base, list) and isinstance(override, list):
        return [*base, *(item for item in override if item not in base)]
    return override


COMPOSE: dict[str, Any] = merge(BASE, OVERRIDE)
CPU: dict[str, Any] = BASE["services"]
GPU: dict[str, Any] = COMPOSE["services"]

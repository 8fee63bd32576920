"""Every alert has a runbook page, and pages name only metrics, settings and services that exist."""

import re
import shlex
from pathlib import Path

import pytest

from service.settings import Settings
from tests.support.compose import GPU
from tests.support.monitoring import RUNBOOK, runbook_commands
from tests.support.prometheus import ALERTS, RECORDINGS
from tests.support.running import ROOT

# Subcommand -> its options with a value. Other words are services; of `exec` only the first one.
SUBCOMMANDS: dict[str, set[str]] = {
    "exec": set(),
    "logs": {"--since", "--tail"},
    "ps": set(),
    "restart": set(),
    "run": set(),
    "up": set(),
}


@pytest.mark.parametrize("alert", ALERTS)
def test_alert_has_a_runbook_page_with_all_sections(alert: str) -> None:
    page = ROOT / ALERTS[alert]["annotations"]["runbook_url"]
    assert page == RUNBOOK / f"{alert}.md"
    text = page.read_text()
    assert text.startswith(f"# {alert}\n")
    for heading in ("## What it means", "## What callers see", "## Look", "## Do", "## It ends"):
        assert f"\n{heading}\n" in text
    assert f"]({alert}.md)" in (RUNBOOK / "README.md").read_text()


def test_every_runbook_page_has_an_alert() -> None:
    assert {page.stem for page in RUNBOOK.glob("*.md")} - {"README"} == set(ALERTS)


@pytest.mark.parametrize("page", sorted(RUNBOOK.glob("*.md")), ids=lambda page: page.stem)
def test_runbook_page_names_only_metrics_settings_and_pages_that_exist(page: Path) -> None:
    text = page.read_text()
    known = (ROOT / "docs/metrics.md").read_text() + " ".join(RECORDINGS)
    for name in set(re.findall(r"\b(channeltok_\w+)", text)):
        assert re.sub(r"_(bucket|count|sum|total)$", "", name) in known, name
    settings = {f"CHANNELTOK_{name.upper()}" for name in Settings.model_fields}
    assert set(re.findall(r"CHANNELTOK_\w+", text)) - settings <= {"CHANNELTOK_GRAFANA_PORT"}
    for link in re.findall(r"\]\(([^)#:]+)[^)]*\)", text):
        assert (page.parent / link).exists(), link


@pytest.mark.parametrize(
    "command", sorted({command for command in runbook_commands() if command.startswith("docker ")})
)
def test_runbook_command_is_for_services_that_exist(command: str) -> None:
    _, compose, subcommand, *words = shlex.split(command.partition(" | ")[0])
    assert compose == "compose"
    services = [
        word
        for before, word in zip([subcommand, *words], words, strict=False)
        if before not in SUBCOMMANDS[subcommand]
    ]
    services = [word for word in services if not word.startswith("-")]
    assert services
    assert set(services[:1] if subcommand == "exec" else services) <= set(GPU)

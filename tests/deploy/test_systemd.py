"""The unit of systemd: its options exist, and its times and limits fit the service's."""

import shutil
import subprocess
from configparser import RawConfigParser
from pathlib import Path
from typing import Any

import pytest

from service import workers
from service.settings import Settings
from tests.support.running import ROOT

UNIT = ROOT / "deploy/systemd/channeltok.service"
MAX_EXPOSURE = 20  # of 100, by `systemd-analyze security`; without any hardening it is 96


@pytest.fixture(scope="module")
def service() -> dict[str, Any]:
    parser = RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(UNIT)
    return dict(parser["Service"])


def test_unit_waits_for_a_whole_drain(service: dict[str, Any]) -> None:
    settings = Settings()
    drain = settings.drain_delay_seconds + settings.drain_seconds
    assert int(service["TimeoutStopSec"]) > drain + workers.KILL_MARGIN_SECONDS


def test_unit_allows_all_connections(service: dict[str, Any]) -> None:
    assert int(service["LimitNOFILE"]) > 2 * Settings().max_connections


def test_unit_starts_the_service_and_waits_until_it_is_ready(service: dict[str, Any]) -> None:
    assert service["ExecStart"] == f"{service['WorkingDirectory']}/.venv/bin/python -m service"
    assert service["Type"] == "notify"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs Debian's systemd")
def test_unit_is_valid_and_hardened(service: dict[str, Any], tmp_path: Path) -> None:
    program = Path(service["WorkingDirectory"]) / ".venv/bin/python"
    # `verify` wants the program to exist.
    unit = tmp_path / UNIT.name
    unit.write_text(
        UNIT.read_text()
        .replace(str(program), "/bin/true")
        .replace(f"WorkingDirectory={service['WorkingDirectory']}", "WorkingDirectory=/")
    )
    analyses = (
        ["verify", "--man=no", str(unit)],
        ["security", "--offline=true", f"--threshold={MAX_EXPOSURE}", str(unit)],
    )
    for arguments in analyses:
        done = subprocess.run(
            ["systemd-analyze", "--no-pager", *arguments], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout
        assert str(unit) not in done.stderr, "an unknown key is only a line on stderr"

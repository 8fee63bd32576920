"""Each alert has its page and each page its alert, and what a page tells to look at and to run is there."""

import re
import shlex
from pathlib import Path

import pytest

from service.settings import Settings
from tests.support.compose import GPU
from tests.support.prometheus import ALERTS, RECORDINGS
from tests.support.running import ROOT

RUNBOOK = ROOT / "docs/runbook"
PROMTOOL_QUERY = ["docker", "compose", "exec", "prometheus", "promtool", "query", "instant"]
# Subcommand -> options with a value; every other word is a service, but for `exec`, whose first is one and the rest its command.
SUBCOMMANDS: dict[str, set[str]] = {
    "exec": set(),
    "logs": {"--since", "--tail"},
    "ps": set(),
    "restart": set(),
    "run": set(),
    "up": set(),
}


def runbook_commands() -> list[str]:
    """Every line of the pages' blocks of commands, and every command inside a sentence."""
    text = "".join(page.read_text() for page in RUNBOOK.glob("*.md"))
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return "".join(blocks).splitlines() + re.findall(r"`(docker compose [^`]+)`", text)


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_has_its_page(alert: str) -> None:
    page = ROOT / ALERTS[alert]["annotations"]["runbook_url"]
    assert page == RUNBOOK / f"{alert}.md"
    text = page.read_text()
    assert text.startswith(f"# {alert}\n")
    for heading in ("## What it means", "## What callers see", "## Look", "## Do", "## It ends"):
        assert f"\n{heading}\n" in text
    assert f"]({alert}.md)" in (RUNBOOK / "README.md").read_text()


def test_every_page_of_the_runbook_has_its_alert() -> None:
    assert {page.stem for page in RUNBOOK.glob("*.md")} - {"README"} == set(ALERTS)


@pytest.mark.parametrize("page", sorted(RUNBOOK.glob("*.md")), ids=lambda page: page.stem)
def test_the_runbook_names_only_metrics_settings_and_pages_that_exist(page: Path) -> None:
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
def test_a_command_is_for_services_that_exist(command: str) -> None:
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

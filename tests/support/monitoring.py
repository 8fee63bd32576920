"""The dashboard's panels and the runbook's commands, for the tests of both."""

import json
import re
from typing import Any

from deploy.grafana import dashboard
from tests.support.running import ROOT

RUNBOOK = ROOT / "docs/runbook"
DASHBOARD: dict[str, Any] = json.loads(dashboard.FILE.read_text())


def panels() -> list[dict[str, Any]]:
    """All panels of the dashboard, without row headings."""
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def runbook_commands() -> list[str]:
    """Every line of the runbook's shell blocks, and every inline `docker compose` command."""
    text = "".join(page.read_text() for page in RUNBOOK.glob("*.md"))
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return "".join(blocks).splitlines() + re.findall(r"`(docker compose [^`]+)`", text)

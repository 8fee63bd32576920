"""The dashboard is what its generator makes, and Grafana's own types know all of it. No Grafana runs here."""

import json
from typing import Any

import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana import dashboard
from tests.support.running import ROOT

PROVISIONING = ROOT / "deploy/grafana/provisioning"
MADE: dict[str, Any] = json.loads(dashboard.FILE.read_text())


def panels() -> list[dict[str, Any]]:
    """All but the rows' headings."""
    return [panel for panel in MADE["panels"] if panel["type"] != "row"]


def test_the_dashboard_is_what_its_generator_makes() -> None:
    assert dashboard.FILE.read_text() == dashboard.text(), "run make dashboard"


def test_grafanas_types_know_every_field() -> None:
    register_default_plugins()
    assert json.loads(json.dumps(Dashboard.from_json(MADE), cls=JSONEncoder)) == MADE


def test_panels_have_titles_units_and_numbers_of_their_own_and_do_not_overlap() -> None:
    assert len({panel["id"] for panel in MADE["panels"]}) == len(MADE["panels"])
    assert len({panel["title"] for panel in panels()}) == len(panels())
    assert all(
        panel["fieldConfig"]["defaults"]["unit"] for panel in panels() if panel["type"] != "table"
    )
    cells = [
        (x, y)
        for position in (panel["gridPos"] for panel in MADE["panels"])
        for x in range(position["x"], position["x"] + position["w"])
        for y in range(position["y"], position["y"] + position["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert {x for x, _ in cells} == set(range(24))


def test_it_is_provisioned_and_asks_the_data_source_that_is() -> None:
    (source,) = yaml.safe_load((PROVISIONING / "datasources/prometheus.yml").read_text())[
        "datasources"
    ]
    assert {(panel["datasource"]["type"], panel["datasource"]["uid"]) for panel in panels()} == {
        (source["type"], source["uid"])
    }
    (provider,) = yaml.safe_load((PROVISIONING / "dashboards/provider.yml").read_text())[
        "providers"
    ]
    assert provider["options"]["path"] == "/etc/grafana/provisioning/dashboards"
    prometheus = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    assert source["jsonData"]["timeInterval"] == prometheus["global"]["scrape_interval"]

"""The generated dashboard is current, and valid by Grafana's own types. No Grafana runs here."""

import json

import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana import dashboard
from tests.support.monitoring import DASHBOARD, panels
from tests.support.running import ROOT

PROVISIONING = ROOT / "deploy/grafana/provisioning"


def test_dashboard_file_is_current() -> None:
    assert dashboard.FILE.read_text() == dashboard.text(), "run make dashboard"


def test_dashboard_has_only_fields_of_grafanas_types() -> None:
    register_default_plugins()
    assert json.loads(json.dumps(Dashboard.from_json(DASHBOARD), cls=JSONEncoder)) == DASHBOARD


def test_panels_have_unique_ids_and_titles_and_units_and_do_not_overlap() -> None:
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    assert len({panel["title"] for panel in panels()}) == len(panels())
    assert all(
        panel["fieldConfig"]["defaults"]["unit"] for panel in panels() if panel["type"] != "table"
    )
    cells = [
        (x, y)
        for position in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for x in range(position["x"], position["x"] + position["w"])
        for y in range(position["y"], position["y"] + position["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert {x for x, _ in cells} == set(range(24))


def test_dashboard_is_provisioned_and_uses_the_provisioned_data_source() -> None:
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

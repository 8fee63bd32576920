"""Run Debian's Prometheus and promtool on the configuration and rules in deploy/prometheus."""

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.support.running import ROOT, eventually

SHIPPED = ROOT / "deploy/prometheus"
INTERVAL = "500ms"
RULES = {
    path.stem: yaml.safe_load(path.read_text()) for path in sorted(SHIPPED.glob("rules/*.yml"))
}
RECORDINGS: dict[str, str] = {}
ALERTS: dict[str, dict[str, Any]] = {}
for _file in RULES.values():
    for _group in _file["groups"]:
        for _rule in _group["rules"]:
            if "alert" in _rule:
                ALERTS[_rule["alert"]] = _rule
            else:
                RECORDINGS[_rule["record"]] = _rule["expr"]


def program(name: str) -> str:
    """Path of prometheus or promtool. Skips the test if missing, which .ci/run rules out."""
    path = shutil.which(name, path=f"{ROOT / 'build/prometheus'}:{os.environ['PATH']}")
    if path is None:
        pytest.skip(f"{name} not found: `make build/prometheus` unpacks Debian's")
    return path


def promtool(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run promtool and return its result."""
    return subprocess.run(
        [program("promtool"), *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@dataclass
class Prometheus:
    """A running Prometheus. url: base of its HTTP API."""

    url: str

    def query(self, expr: str) -> list[dict[str, Any]]:
        """Result of an instant query. AssertionError if it is invalid."""
        reply = httpx.get(f"{self.url}/api/v1/query", params={"query": expr}, timeout=30).json()
        assert reply["status"] == "success", f"{expr}: {reply['error']}"
        result = reply["data"]["result"]
        return (
            [{"metric": {}, "value": result}] if reply["data"]["resultType"] == "scalar" else result
        )

    def firing(self) -> dict[str, dict[str, Any]]:
        """Firing alerts by name; of several with the same name the last."""
        alerts = httpx.get(f"{self.url}/api/v1/alerts", timeout=30).json()["data"]["alerts"]
        return {
            alert["labels"]["alertname"]: alert for alert in alerts if alert["state"] == "firing"
        }

    def unhealthy_rules(self) -> list[str]:
        """Rules whose last evaluation failed, with their errors."""
        groups = httpx.get(f"{self.url}/api/v1/rules", timeout=30).json()["data"]["groups"]
        return [
            f"{rule['name']}: {rule.get('lastError')}"
            for group in groups
            for rule in group["rules"]
            if rule["health"] == "err"
        ]


@contextmanager
def scraping(folder: Path, *, gateways: list[str], tritons: list[str]) -> Iterator[Prometheus]:
    """Prometheus with the shipped rules, on other targets (HOST:PORT).

    It scrapes every INTERVAL, and alerts fire after one second instead of minutes.
    """
    config = yaml.safe_load((SHIPPED / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": INTERVAL, "evaluation_interval": INTERVAL}
    targets = {"gateway": gateways, "triton": tritons}
    config["scrape_configs"] = [
        {"job_name": job["job_name"], "static_configs": [{"targets": targets[job["job_name"]]}]}
        for job in config["scrape_configs"]
    ]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    (folder / "rules").mkdir()
    for rules in SHIPPED.glob("rules/*.yml"):
        (folder / "rules" / rules.name).write_text(
            re.sub(r"^( +for): \w+$", r"\1: 1s", rules.read_text(), flags=re.MULTILINE)
        )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [
                program("prometheus"),
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={address}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        eventually(lambda: _ready(address), 30, "Prometheus")
        yield Prometheus(f"http://{address}")
    finally:
        process.terminate()
        process.wait(20)


def _ready(address: str) -> bool:
    try:
        return httpx.get(f"http://{address}/-/ready").status_code == 200
    except httpx.TransportError:
        return False

"""The configuration, the rules, their unit tests and the runbook, by promtool and by comparing them with one another."""

import re

import pytest
import yaml

from service.errors import ServiceError
from service.observability import metrics
from tests.support.prometheus import ALERTS, RECORDINGS, RULES, SHIPPED, promtool

UNIT_TESTS = {
    path.stem: yaml.safe_load(path.read_text()) for path in sorted(SHIPPED.glob("tests/*.yml"))
}


def test_the_configuration_and_the_rules_are_valid() -> None:
    checked = promtool("check", "config", str(SHIPPED / "prometheus.yml"))
    assert checked.returncode == 0, checked.stderr
    assert f"{len(RULES)} rule files found" in checked.stdout
    for name in RULES:
        checked = promtool(
            "check", "rules", "--lint=all", "--lint-fatal", str(SHIPPED / f"rules/{name}.yml")
        )
        assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("name", UNIT_TESTS)
def test_alerts_fire_when_they_should_and_are_silent_otherwise(name: str) -> None:
    tested = promtool("test", "rules", str(SHIPPED / f"tests/{name}.yml"))
    assert tested.returncode == 0, tested.stdout + tested.stderr


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_has_a_unit_test_that_it_fires_and_one_that_it_is_silent(alert: str) -> None:
    expected = [
        case["exp_alerts"]
        for file in UNIT_TESTS.values()
        for test in file["tests"]
        for case in test.get("alert_rule_test", [])
        if case["alertname"] == alert
    ]
    assert any(expected), "no test has it fire, with its texts"
    assert not all(expected), "no test has it silent"


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_says_how_urgent_it_is(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert {"summary", "description", "runbook_url"} == set(rule["annotations"])


def test_the_latency_objective_is_a_bound_of_the_buckets() -> None:
    bounds = {
        float(bound) for expr in RECORDINGS.values() for bound in re.findall(r'le="([\d.]+)"', expr)
    }
    assert bounds == {min(metrics.DURATION_BUCKETS, key=lambda bound: abs(bound - 0.25))}


def test_every_error_code_is_somebodys_fault() -> None:
    """A code of service/errors.py that no rule knows would burn no budget and raise no alert."""
    faults = {
        "the service's": _pattern(RECORDINGS["channeltok:calls_failed:rate5m"], "code"),
        "the load's": "OVERLOADED|STOPPING",
        "callers'": _pattern(ALERTS["ChannelTokClientFaults"]["expr"], "code"),
    }
    codes = [ServiceError.code, *(error.code for error in ServiceError.__subclasses__())]
    blamed = {
        code: [whose for whose, pattern in faults.items() if re.fullmatch(pattern, code)]
        for code in codes
    }
    assert {code: whose for code, whose in blamed.items() if len(whose) != 1} == {}
    assert (
        blamed["INTERNAL"]
        == blamed["ENGINE_UNAVAILABLE"]
        == blamed["DEADLINE_EXCEEDED"]
        == ["the service's"]
    )


def _pattern(expr: str, label: str) -> str:
    (pattern,) = set(re.findall(rf'{label}=~"([^"]+)"', expr))
    return str(pattern)

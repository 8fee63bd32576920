"""Prometheus configuration, rules and their unit tests, by promtool and against the error codes."""

import re

import pytest
import yaml

from service.errors import ServiceError
from service.observability import metrics
from tests.support.prometheus import ALERTS, RECORDINGS, RULES, SHIPPED, promtool

UNIT_TESTS = {
    path.stem: yaml.safe_load(path.read_text()) for path in sorted(SHIPPED.glob("tests/*.yml"))
}


def test_configuration_and_rules_are_valid() -> None:
    checked = promtool("check", "config", str(SHIPPED / "prometheus.yml"))
    assert checked.returncode == 0, checked.stderr
    assert f"{len(RULES)} rule files found" in checked.stdout
    for name in RULES:
        checked = promtool(
            "check", "rules", "--lint=all", "--lint-fatal", str(SHIPPED / f"rules/{name}.yml")
        )
        assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("name", UNIT_TESTS)
def test_rules_pass_their_unit_tests(name: str) -> None:
    tested = promtool("test", "rules", str(SHIPPED / f"tests/{name}.yml"))
    assert tested.returncode == 0, tested.stdout + tested.stderr


@pytest.mark.parametrize("alert", ALERTS)
def test_alert_has_unit_tests_for_firing_and_for_silence(alert: str) -> None:
    expected = [
        case["exp_alerts"]
        for file in UNIT_TESTS.values()
        for test in file["tests"]
        for case in test.get("alert_rule_test", [])
        if case["alertname"] == alert
    ]
    assert any(expected), "no unit test in which it fires"
    assert not all(expected), "no unit test in which it is silent"


@pytest.mark.parametrize("alert", ALERTS)
def test_alert_has_a_severity_and_its_annotations(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert {"summary", "description", "runbook_url"} == set(rule["annotations"])


def test_latency_objective_is_a_bucket_bound() -> None:
    bounds = {
        float(bound) for expr in RECORDINGS.values() for bound in re.findall(r'le="([\d.]+)"', expr)
    }
    assert bounds == {min(metrics.DURATION_BUCKETS, key=lambda bound: abs(bound - 0.25))}


def test_every_error_code_is_attributed_by_exactly_one_rule() -> None:
    """A code of service/errors.py without a rule would burn no budget and raise no alert."""
    rules = {
        "service": _pattern(RECORDINGS["channeltok:calls_failed:rate5m"], "code"),
        "load": "OVERLOADED|STOPPING",
        "callers": _pattern(ALERTS["ChannelTokClientFaults"]["expr"], "code"),
    }
    codes = [ServiceError.code, *(error.code for error in ServiceError.__subclasses__())]
    causes = {
        code: [cause for cause, pattern in rules.items() if re.fullmatch(pattern, code)]
        for code in codes
    }
    assert {code: cause for code, cause in causes.items() if len(cause) != 1} == {}
    for code in ("INTERNAL", "ENGINE_UNAVAILABLE", "DEADLINE_EXCEEDED"):
        assert causes[code] == ["service"]


def _pattern(expr: str, label: str) -> str:
    return "|".join(sorted(set(re.findall(rf'{label}=~"([^"]+)"', expr))))

"""Read samples and metric families of a service's /metrics page."""

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.support.running import Service


def families(service: Service) -> dict[str, dict[str, str]]:
    """All metric families: name -> {type, help}."""
    return {
        family.name: {"type": family.type, "help": family.documentation}
        for family in _parse(service)
    }


def sample(service: Service, name: str, model_suffix: str = "", **labels: str) -> float:
    """Sum of the samples of `name` whose labels match. model_suffix: end of the model label."""
    return sum(
        row.value
        for family in _parse(service)
        for row in family.samples
        if row.name in (name, f"{name}_total")  # the parser adds it to Triton's counters
        and row.labels.get("model", "").endswith(model_suffix)
        and all(row.labels.get(key) == value for key, value in labels.items())
    )


def _parse(service: Service):  # type: ignore[no-untyped-def]
    return list(
        text_string_to_metric_families(httpx.get(f"{service.rest}/metrics").raise_for_status().text)
    )

import itertools
import re
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from service.observability.metrics import DURATION_BUCKETS, budget_label


@pytest.mark.parametrize(
    ("k", "label"),
    [(1, "1"), (2, "2"), (3, "4"), (64, "64"), (65, "128"), (256, "256"), (257, "512")],
)
def test_budget_label_rounds_up_to_a_power_of_two(k: int, label: str) -> None:
    assert budget_label(k) == label


def test_duration_buckets_are_geometric_from_1_ms_to_10_s() -> None:
    assert (DURATION_BUCKETS[0], DURATION_BUCKETS[-1], len(DURATION_BUCKETS)) == (0.001, 10.0, 17)
    assert all(1.7 < after / before < 1.9 for before, after in itertools.pairwise(DURATION_BUCKETS))


def test_metrics_page_lists_every_metric_and_nothing_else() -> None:
    page = (Path(__file__).parents[3] / "docs/metrics.md").read_text()
    ours = {family.name for family in REGISTRY.collect() if family.name.startswith("channeltok_")}
    assert set(re.findall(r"^\| `(channeltok_\w+)`", page, re.MULTILINE)) == ours

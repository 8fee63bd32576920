import itertools

import pytest

from service.metrics import SECONDS, budget_label


@pytest.mark.parametrize(("k", "label"), [(1, "1"), (2, "2"), (3, "4"), (64, "64"), (65, "128"), (256, "256"), (257, "512")])
def test_budget_label(k: int, label: str) -> None:
    assert budget_label(k) == label


def test_buckets_are_geometric_from_1_ms_to_10_s() -> None:
    assert (SECONDS[0], SECONDS[-1], len(SECONDS)) == (0.001, 10.0, 17)
    assert all(1.7 < after / before < 1.9 for before, after in itertools.pairwise(SECONDS))

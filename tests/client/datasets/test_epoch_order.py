"""The order of an epoch: each row once, equal parts, and batches as mixed as a full shuffle's."""

from typing import Any

import numpy as np
import pytest
from channeltok.datasets.loader.order import WINDOWS, EpochOrder
from numpy.typing import NDArray


def batches(order: EpochOrder) -> list[NDArray[np.int64]]:
    """The rows of each batch, as numbers over all rows."""
    starts = np.cumsum(order.group_rows) - order.group_rows
    blocks = [order.block(number) for number in range(len(order.blocks) - 1)]
    rows = np.concatenate([starts[groups] + places for groups, places in blocks])
    return [rows[slice(*order.bounds(step))] for step in range(order.steps)]


def all_parts(parts: int, group_rows: NDArray[np.int64], **options: Any) -> list[list[Any]]:
    return [batches(EpochOrder(group_rows, part=(i, parts), **options)) for i in range(parts)]


@pytest.mark.parametrize("seed", [None, 0, 7])
@pytest.mark.parametrize("parts", [1, 3, 8])
@pytest.mark.parametrize("size", [1, 2, 7, 10, 64])
@pytest.mark.parametrize("total", [8, 80, 81, 487, 1000])
def test_parts_hold_each_row_once_in_equal_steps(
    seed: int | None, parts: int, size: int, total: int
) -> None:
    rng = np.random.default_rng(total)
    group_rows = rng.multinomial(total, [0.05, 0.2, 0.35, 0.4])
    options = {"size": size, "seed": seed, "shuffle_rows": 50}
    if size == 1 and total % parts:
        with pytest.raises(ValueError, match="drop_last"):
            all_parts(parts, group_rows, **options)
        return
    found = all_parts(parts, group_rows, **options)
    assert len({len(part) for part in found}) == 1
    assert sorted(np.concatenate([row for part in found for row in part])) == [*range(total)]
    for part in found:
        assert {len(batch) for batch in part[:-2]} <= {size}
        assert all(1 <= len(batch) <= size for batch in part)


@pytest.mark.parametrize(("total", "size"), [(487, 10), (1000, 64), (7, 1), (30, 10)])
def test_drop_last_gives_full_batches_alone(total: int, size: int) -> None:
    options = {"size": size, "seed": 3, "drop_last": True}
    found = all_parts(4, np.array([total // 2, total - total // 2]), **options)
    assert {len(part) for part in found} == {total // 4 // size}
    rows = [row for part in found for batch in part for row in batch]
    assert len(rows) == len(set(rows)) == total // 4 // size * size * 4


def test_order_without_a_seed_is_that_of_the_rows() -> None:
    found = batches(EpochOrder(np.array([3, 4, 5]), 5, None, (0, 1), shuffle_rows=4))
    assert [batch.tolist() for batch in found] == [[*range(5)], [*range(5, 10)], [10, 11]]


def test_seeds_change_the_order() -> None:
    one, again, other = (
        np.concatenate(batches(EpochOrder(np.array([50, 50]), 9, seed, (0, 1))))
        for seed in (1, 1, 2)
    )
    assert one.tolist() == again.tolist() != other.tolist()


@pytest.mark.parametrize(
    ("classes", "rows", "parts", "shuffle_rows"),
    [
        (1000, 1300, 1, 262_144),  # ImageNet, a shard for each class, in blocks
        (1000, 1300, 8, 262_144),
        (1000, 200, 8, 262_144),  # each part is one block
        (100, 4096, 4, 65_536),
        (20, 50, 2, 262_144),
    ],
)
def test_batches_mix_classes_as_a_full_shuffle_does(
    classes: int, rows: int, parts: int, shuffle_rows: int
) -> None:
    """Within 10 % of the number of classes in a batch of 256, where each shard holds one class."""
    order = EpochOrder(np.full(classes, rows), 256, 5, (parts - 1, parts), False, shuffle_rows)
    mixed = [len(np.unique(batch // rows)) for batch in batches(order) if len(batch) == 256]
    rng = np.random.default_rng(0)
    true = [
        len(np.unique(rng.choice(classes * rows, 256, replace=False) // rows)) for _ in range(50)
    ]
    assert np.mean(mixed) == pytest.approx(np.mean(true), rel=0.1)
    assert min(mixed) > 0.8 * np.mean(true)


def test_a_part_reads_a_row_group_once_for_each_of_its_blocks() -> None:
    """What the shuffle costs where blocks are smaller than the dataset."""
    order = EpochOrder(np.full(400, 1000), 256, 5, (0, 1), False, 100_000)
    reads = sum(len(np.unique(order.block(number)[0])) for number in range(4))
    assert len(order.blocks) == 5
    assert 400 < reads <= 4 * 400
    assert WINDOWS * 48 < 100_000 < WINDOWS * 50


@pytest.mark.parametrize(
    "change",
    [{"size": 0}, {"part": (2, 2)}, {"part": (-1, 2)}, {"part": (0, 0)}, {"shuffle_rows": 0}],
)
def test_order_refuses_arguments_out_of_range(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        EpochOrder(**{"group_rows": np.array([9]), "size": 2, "seed": 0, "part": (0, 1), **change})


def test_an_empty_dataset_has_no_batches() -> None:
    assert batches(EpochOrder(np.array([], np.int64), 4, 1, (0, 3))) == []

"""Numbers of classes: the same ones in every split, and those of the source where it had some."""

from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from channeltok.datasets.loader.shards import TokenShards

NO_LABEL = -1
_NO_NUMBER = np.iinfo(np.int64).min
_MAX_NUMBER = 1_000_000  # of a class that keeps its number


def classes_of(shards: TokenShards) -> list[str]:
    """The name of each class, by its number; see `number_classes`. Reads all shards."""
    found = shards.map(lambda path: _pairs(shards, path))
    return number_classes(chain.from_iterable(found), shards.class_names())


def number_classes(
    pairs: Iterable[tuple[str, int | None]], names_of_source: Sequence[str] = ()
) -> list[str]:
    """Number classes, given the name of each and its number in the source, if it had one.

    Where every class has a number, at least 0, and no two share one, those are kept. Classes
    without an image have the name that the source gives them; without one, "class N". Else classes
    are numbered in the order of their names.

    names_of_source: of all classes by their numbers; ignored where it contradicts the pairs.
    """
    numbers = set(pairs)
    names = {name for name, _ in numbers}
    by_number = {number: name for name, number in numbers if number is not None and number >= 0}
    clear = len(names) == len(by_number) == len(numbers)
    if not clear or max(by_number, default=0) > _MAX_NUMBER:
        return sorted(names)
    others = {**dict(enumerate(names_of_source)), **by_number}
    if len(set(others.values())) < len(others):
        others = by_number
    return [others.get(number, f"class {number}") for number in range(max(others, default=-1) + 1)]


def label_numbers(table: pa.Table, classes: pa.Array) -> NDArray[np.int64]:
    """The number of each row's class, NO_LABEL without one or with one that is not in `classes`."""
    numbers = pc.index_in(_names(table), value_set=classes, skip_nulls=True)
    found: NDArray[np.int64] = numbers.fill_null(NO_LABEL).to_numpy().astype(np.int64)
    return found


def label_columns(columns: Iterable[str]) -> list[str]:
    """Those of `columns` that say the class of a row."""
    return [name for name in ("label", "label_id") if name in columns]


def _pairs(shards: TokenShards, path: str) -> set[tuple[str, int | None]]:
    table = shards.read(path, ["label", "label_id"])  # older shards have no label_id
    names = _names(table)
    if "label_id" not in table.column_names or table["label_id"].null_count == len(table):
        return {(name, None) for name in pc.unique(names).to_pylist() if name is not None}
    encoded = names.combine_chunks().dictionary_encode()
    rows = np.stack(
        [
            encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False),
            table["label_id"].fill_null(_NO_NUMBER).to_numpy(),
        ]
    )
    texts = encoded.dictionary.to_pylist()
    return {
        (texts[at], None if number == _NO_NUMBER else number)
        for at, number in np.unique(rows, axis=1).T.tolist()
        # Hugging Face's number of a class that is not known is -1.
        if at >= 0 and (number >= 0 or number == _NO_NUMBER)
    }


def _names(table: pa.Table) -> pa.ChunkedArray:
    """The name of each row's class; that of a class without a name is its number."""
    names = table["label"].cast(pa.string())
    if "label_id" not in table.column_names:
        return names
    numbers = table["label_id"]
    return pc.coalesce(names, pc.if_else(pc.less(numbers, 0), None, numbers).cast(pa.string()))

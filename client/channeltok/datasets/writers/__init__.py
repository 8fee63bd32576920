"""Serialise token shards to Parquet or WebDataset tars. The same rows give the same bytes."""

from collections.abc import Callable

from channeltok.datasets.writers.description import Description
from channeltok.datasets.writers.parquet_shard import parquet
from channeltok.datasets.writers.row import Row
from channeltok.datasets.writers.webdataset_shard import webdataset

CONTAINERS: dict[str, Callable[[list[Row], Description], bytes]] = {
    "parquet": parquet,
    "webdataset": webdataset,
}

__all__ = ["CONTAINERS", "Description", "Row", "parquet", "webdataset"]

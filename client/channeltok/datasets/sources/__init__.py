"""Read images from folders, WebDataset tars and Parquet files, on any fsspec file system.

A source is cut into shards by its layout alone, so every run and machine cuts it the same way: each
tar and each Parquet file is a shard, and loose images make shards of `FOLDER_SHARD_IMAGES` in the
order of their paths.
"""

from channeltok.datasets.sources.find import find_shards
from channeltok.datasets.sources.listing import Listing
from channeltok.datasets.sources.options import SourceOptions
from channeltok.datasets.sources.sample import Sample
from channeltok.datasets.sources.shard import Shard, Skipped

__all__ = ["Listing", "Sample", "Shard", "Skipped", "SourceOptions", "find_shards"]

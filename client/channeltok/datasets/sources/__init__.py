"""Read images from folders, WebDataset tars and Parquet files, on any fsspec file system.

find.py     what is a shard, and what belongs to one
  places.py   what a source names: literal names, braces, patterns, lists
  walk.py     the files there
  loose.py    loose images, their captions and metadata rows
  cut.py      the shards, by the layout of the source alone: every machine cuts it the same
tar.py, parquet.py, folder.py
            read the samples of one shard
columns.py  what came with an image; names.py: keys and labels
"""

from channeltok.datasets.sources.find import find_shards
from channeltok.datasets.sources.listing import Listing
from channeltok.datasets.sources.options import SourceOptions
from channeltok.datasets.sources.recorded_cut import CutShard, RecordedCut
from channeltok.datasets.sources.sample import Sample
from channeltok.datasets.sources.shard import Shard, Skipped

__all__ = [
    "CutShard",
    "Listing",
    "RecordedCut",
    "Sample",
    "Shard",
    "Skipped",
    "SourceOptions",
    "find_shards",
]

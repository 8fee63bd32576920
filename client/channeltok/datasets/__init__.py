"""Whole datasets of images to shards of tokens, exactly once: `channeltok tokenize` from Python.

    source shard -> images -> [ engine ] -> rows and rejects -> token shard -> ledger entry

Needs the extra `batch`: `pip install "channeltok[batch]"`.
"""

from channeltok.datasets._detokenize import Decoder, detokenize
from channeltok.datasets._tokenize import Summary, tokenize
from channeltok.datasets._verify import Verification, verify
from channeltok.datasets.errors import (
    DatasetError,
    DestinationError,
    DestinationMismatch,
    EngineGone,
    ShardFailed,
    SourceError,
    TooManyRejects,
)
from channeltok.datasets.progress import ProgressListener
from channeltok.datasets.shard import Engine
from channeltok.datasets.sources import SourceOptions
from channeltok.datasets.token_dataset import Batch, Batches, TokenDataset

__all__ = [
    "Batch",
    "Batches",
    "DatasetError",
    "Decoder",
    "DestinationError",
    "DestinationMismatch",
    "Engine",
    "EngineGone",
    "ProgressListener",
    "ShardFailed",
    "SourceError",
    "SourceOptions",
    "Summary",
    "TokenDataset",
    "TooManyRejects",
    "Verification",
    "detokenize",
    "tokenize",
    "verify",
]

"""Whole datasets of images to shards of tokens, exactly once: `channeltok tokenize`, and the same from Python.

    source shard -> images -> [ engine ] -> rows and rejects -> token shard, renamed into place -> ledger

Needs the extra `batch`: `pip install "channeltok[batch]"`.
"""

from channeltok.datasets.destination import DestinationMismatch
from channeltok.datasets.detokenizing import Verified, detokenize, verify
from channeltok.datasets.run import ShardFailed, Summary, TooManyRejects, tokenize
from channeltok.datasets.shard import Engine
from channeltok.datasets.sources import SourceError
from channeltok.datasets.token_dataset import Batch, TokenDataset

__all__ = [
    "Batch",
    "DestinationMismatch",
    "Engine",
    "ShardFailed",
    "SourceError",
    "Summary",
    "TokenDataset",
    "TooManyRejects",
    "Verified",
    "detokenize",
    "tokenize",
    "verify",
]

"""Tokens back to images, and back to where they came from."""

import os
import random
from collections import deque
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from channeltok._messages import ImageFormat
from channeltok.datasets.shard import Engine
from channeltok.datasets.sources import Shard, SourceError, find_shards
from channeltok.datasets.token_dataset import TokenDataset
from channeltok.errors import ChannelTokError, FingerprintMismatch, InvalidInput, TooLarge
from channeltok.tokens import Tokens

SHARDS = 8  # that a verification reads at most


class Decoder(Protocol):
    """Whatever makes images of tokens: `channeltok.Client`, or an engine in this process."""

    def decode_stream(
        self,
        tokens: Iterable[Tokens | bytes],
        format: ImageFormat = "png",
        tokenizer: str | None = None,
    ) -> Generator[bytes | ChannelTokError, None, None]:
        """For each token sequence, in order, its image or its error."""
        ...


def detokenize(
    source: str,
    folder: Path,
    decoder: Decoder,
    *,
    k: int | None = None,
    format: ImageFormat = "jpeg",
) -> int:
    """An image KEY.SUFFIX in `folder` for every row of the token shards at `source`; returns how many. k: None for all tokens.

    Images that are there already are made again. Raises SourceError (also for a key that leads out of the folder), ValueError,
    ChannelTokError, OSError.
    """
    dataset = TokenDataset(source, k)
    root = folder.resolve()
    keys: deque[str] = deque()

    def tokens() -> Generator[Tokens, None, None]:
        for key, one in dataset.rows():
            keys.append(key)
            yield one

    count = 0
    for image in decoder.decode_stream(tokens(), format):
        key = keys.popleft()
        if isinstance(image, ChannelTokError):
            raise image
        path = root / f"{key}.{'jpg' if format == 'jpeg' else format}"
        if root not in Path(os.path.normpath(path)).parents:
            raise SourceError(f"the key {key!r} leads out of {folder}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)
        count += 1
    return count


@dataclass
class Verified:
    """images: that were made into tokens again. different: keys whose tokens are others now, or whose image is refused.

    missing: keys no longer in the source.
    """

    images: int = 0
    different: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def verify(
    source: str, destination: str, engine: Engine, *, sample: int = 100, seed: int = 0
) -> Verified:
    """Make tokens of `sample` images again, of at most `SHARDS` shards, and compare. source: what `destination` was made of.

    Raises SourceError, and ChannelTokError where the engine fails, or has another training.
    """
    dataset, chance = TokenDataset(destination), random.Random(seed)
    name = _maker(engine, next(dataset.rows())[1].fingerprint)
    sources = {shard.name: shard for shard in find_shards(source)}
    chosen = sorted(chance.sample(dataset.shards, min(SHARDS, len(dataset.shards))))
    verified = Verified()
    for number, path in enumerate(chosen):
        share = (sample * (number + 1)) // len(chosen) - (sample * number) // len(chosen)
        rows = list(dataset.rows_of(path))
        _verify_shard(
            sources.get(dataset.name_of(path)),
            dict(chance.sample(rows, min(share, len(rows)))),
            engine,
            name,
            verified,
        )
    return verified


def _maker(engine: Engine, fingerprint: str) -> str:
    served = engine.tokenizers()
    for info in served:
        if info.fingerprint == fingerprint:
            return info.name
    there = ", ".join(f"{info.fingerprint} ({info.name})" for info in served)
    raise FingerprintMismatch(
        "FINGERPRINT_MISMATCH", f"the tokens were made by {fingerprint}, and the engine has {there}"
    )


def _verify_shard(
    shard: Shard | None,
    expected: dict[str, Tokens],
    engine: Engine,
    tokenizer: str,
    verified: Verified,
) -> None:
    if shard is None:
        verified.missing += expected
        return
    keys: list[str] = []

    def images() -> Generator[bytes, None, None]:
        for sample in shard.samples():
            if sample.key in expected:
                keys.append(sample.key)
                yield sample.image  # no bytes where it cannot be read any more: refused
                if len(keys) == len(expected):
                    return

    k = max((tokens.k for tokens in expected.values()), default=None)
    for number, result in enumerate(engine.encode_stream(images(), k, tokenizer)):
        if isinstance(result, ChannelTokError) and not isinstance(result, (InvalidInput, TooLarge)):
            raise result
        verified.images += 1
        due = expected[keys[number]]
        if isinstance(result, ChannelTokError) or result.prefix(due.k) != due:
            verified.different.append(keys[number])
    verified.missing += expected.keys() - set(keys)

"""Check token shards against their source: tokenize a sample of the images again and compare."""

import random
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

from channeltok._messages import TokenizerInfo
from channeltok.datasets.destination import fit_of, manifest_of, options_of, recorded_cut_of
from channeltok.datasets.errors import SourceError
from channeltok.datasets.explained import explained
from channeltok.datasets.shard import Engine
from channeltok.datasets.sources import Sample, Shard, find_shards
from channeltok.datasets.token_dataset import TokenDataset
from channeltok.errors import ChannelTokError, FingerprintMismatch, InvalidInput, TooLarge
from channeltok.fit import Fit
from channeltok.images import Pixels
from channeltok.tokens import Tokens

MAX_SHARDS = 8  # read by one verification


@dataclass
class Verification:
    """Result of `verify`.

    Attributes:
        images: number of images that were tokenized again.
        different: keys whose tokens differ now, or whose image is rejected now.
        missing: keys of images that are no longer at their place in the source.
    """

    images: int = 0
    different: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def verify(
    source: str | Sequence[str],
    destination: str,
    engine: Engine,
    *,
    sample: int = 100,
    seed: int = 0,
) -> Verification:
    """Tokenize a random sample of images again and compare with the stored tokens.

    Args:
        source: the images, as they were passed to `tokenize`.
        destination: Parquet output of `tokenize`.
        engine: a client, or an engine in this process.
        sample: number of images, from at most `MAX_SHARDS` shards.
        seed: seed of the sample.

    Returns:
        How many images were compared, and the keys that differ or are missing.

    Raises:
        SourceError: source or destination cannot be read, or there are no rows.
        ChannelTokError: the engine fails, or serves no tokenizer with the tokens' fingerprint.
    """
    rng = random.Random(seed)
    with explained(SourceError, destination):
        dataset = TokenDataset(destination)
        cut = recorded_cut_of(destination)
    first = next(dataset.rows(), None)
    if first is None:
        raise SourceError(f"{destination}: its token shards have no rows to compare")
    how = _How.of(destination, engine, first[1].fingerprint)
    with explained(SourceError, source if isinstance(source, str) else ", ".join(source)):
        listing = find_shards(source, options_of(destination), cut)
    sources = {shard.name: shard for shard in listing.shards}
    paths = sorted(rng.sample(dataset.shards, min(MAX_SHARDS, len(dataset.shards))))
    result = Verification()
    for number, path in enumerate(paths):
        share = (sample * (number + 1)) // len(paths) - (sample * number) // len(paths)
        rows = _rows(dataset, path)
        expected = rng.sample(rows, min(share, len(rows)))
        shard = sources.get(dataset.name_of(path))
        if shard is None:
            result.missing += [row.key for row in expected]
        else:
            _verify_shard(shard, expected, engine, how, result)
    return result


@dataclass(frozen=True)
class _Row:
    """A stored row. view: number of a random view; None for the image itself."""

    key: str
    offset: int
    view: int | None
    tokens: Tokens


@dataclass(frozen=True)
class _How:
    """How the stored tokens were made."""

    info: TokenizerInfo
    fit: Fit
    seed: int

    @classmethod
    def of(cls, destination: str, engine: Engine, fingerprint: str) -> "_How":
        """Raises FingerprintMismatch if the engine cannot make them."""
        served = engine.tokenizers()
        info = next((info for info in served if info.fingerprint == fingerprint), None)
        if info is None:
            available = ", ".join(f"{info.fingerprint} ({info.name})" for info in served)
            raise FingerprintMismatch(
                "FINGERPRINT_MISMATCH",
                f"the tokens were made by {fingerprint}, and the engine has {available}",
            )
        return cls(info, fit_of(destination), manifest_of(destination).get("seed", 0))

    def image(self, sample: Sample, view: int | None) -> "bytes | Pixels":
        """What the engine got for a row of this sample.

        Empty for an image that can no longer be read: the engine rejects it.
        """
        if view is None:
            return sample.image
        from channeltok.local.random_views import RandomViews  # an extra

        views = RandomViews(self.seed, self.info.image_size, self.fit)
        try:
            return views.of(sample.image, sample.key, [view])[0].pixels
        except InvalidInput:
            return b""


def _rows(dataset: TokenDataset, shard: str) -> list[_Row]:
    origins = dataset.columns_of(shard, ["offset", "view"])
    views = origins.get("view") or [None] * len(origins["offset"])
    rows = zip(dataset.rows_of(shard), origins["offset"], views, strict=True)
    return [_Row(key, offset, view, tokens) for (key, tokens), offset, view in rows]


def _verify_shard(
    shard: Shard, expected: list[_Row], engine: Engine, how: _How, result: Verification
) -> None:
    """Find the images by their offsets, which stay what they are whatever the keys become."""
    wanted: dict[int, list[_Row]] = {}
    for row in expected:
        wanted.setdefault(row.offset, []).append(row)
    sent: deque[_Row] = deque()

    def images() -> Generator["bytes | Pixels", None, None]:
        for sample in shard.samples():
            for row in wanted.pop(sample.offset, ()):
                sent.append(row)
                yield how.image(sample, row.view)
            if not wanted:
                return

    k = max((row.tokens.k for row in expected), default=None)
    for tokens in engine.encode_stream(images(), k, how.info.name, fit=how.fit):
        rejected = isinstance(tokens, (InvalidInput, TooLarge))
        if isinstance(tokens, ChannelTokError) and not rejected:
            raise tokens
        result.images += 1
        row = sent.popleft()
        if isinstance(tokens, ChannelTokError) or tokens.prefix(row.tokens.k) != row.tokens:
            result.different.append(row.key)
    result.missing += [row.key for rows in wanted.values() for row in rows]

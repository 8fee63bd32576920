"""Check token shards against their source: tokenize a sample of the images again and compare."""

import random
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

from channeltok.datasets.destination import fit_of, options_of
from channeltok.datasets.shard import Engine
from channeltok.datasets.sources import Shard, find_shards
from channeltok.datasets.token_dataset import TokenDataset
from channeltok.errors import ChannelTokError, FingerprintMismatch, InvalidInput, TooLarge
from channeltok.fit import Fit
from channeltok.tokens import Tokens

MAX_SHARDS = 8  # read by one verification


@dataclass
class Verification:
    """Result of `verify`.

    Attributes:
        images: number of images that were tokenized again.
        different: keys whose tokens differ now, or whose image is rejected now.
        missing: keys that the source no longer has.
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
        SourceError: source or destination cannot be read.
        ChannelTokError: the engine fails, or serves no tokenizer with the tokens' fingerprint.
    """
    dataset, rng = TokenDataset(destination), random.Random(seed)
    fit = fit_of(destination)
    tokenizer = _tokenizer_of(engine, next(dataset.rows())[1].fingerprint)
    sources = {shard.name: shard for shard in find_shards(source, options_of(destination)).shards}
    paths = sorted(rng.sample(dataset.shards, min(MAX_SHARDS, len(dataset.shards))))
    result = Verification()
    for number, path in enumerate(paths):
        share = (sample * (number + 1)) // len(paths) - (sample * number) // len(paths)
        rows = list(dataset.rows_of(path))
        expected = dict(rng.sample(rows, min(share, len(rows))))
        shard = sources.get(dataset.name_of(path))
        if shard is None:
            result.missing += expected
        else:
            _verify_shard(shard, expected, engine, tokenizer, fit, result)
    return result


def _tokenizer_of(engine: Engine, fingerprint: str) -> str:
    served = engine.tokenizers()
    for info in served:
        if info.fingerprint == fingerprint:
            return info.name
    available = ", ".join(f"{info.fingerprint} ({info.name})" for info in served)
    raise FingerprintMismatch(
        "FINGERPRINT_MISMATCH",
        f"the tokens were made by {fingerprint}, and the engine has {available}",
    )


def _verify_shard(
    shard: Shard,
    expected: dict[str, Tokens],
    engine: Engine,
    tokenizer: str,
    fit: Fit,
    result: Verification,
) -> None:
    keys: list[str] = []  # sent so far

    def images() -> Generator[bytes, None, None]:
        for sample in shard.samples():
            if sample.key in expected:
                keys.append(sample.key)
                yield sample.image  # empty if it can no longer be read: the engine rejects it
                if len(keys) == len(expected):
                    return

    k = max((tokens.k for tokens in expected.values()), default=None)
    for number, tokens in enumerate(engine.encode_stream(images(), k, tokenizer, fit=fit)):
        rejected = isinstance(tokens, (InvalidInput, TooLarge))
        if isinstance(tokens, ChannelTokError) and not rejected:
            raise tokens
        result.images += 1
        stored = expected[keys[number]]
        if isinstance(tokens, ChannelTokError) or tokens.prefix(stored.k) != stored:
            result.different.append(keys[number])
    result.missing += expected.keys() - set(keys)

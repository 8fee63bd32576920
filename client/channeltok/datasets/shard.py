"""Tokenize one shard, with retries, and put it in place; in a thread here or on a Ray worker."""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from channeltok._messages import TokenizerInfo
from channeltok.datasets.destination import Destination, Entry, Reject
from channeltok.datasets.errors import SourceError
from channeltok.datasets.length_stats import LengthStats
from channeltok.datasets.sources import Sample, Shard
from channeltok.datasets.writers import CONTAINERS, Description, Row
from channeltok.errors import (
    ChannelTokError,
    FingerprintMismatch,
    InternalError,
    InvalidInput,
    TooLarge,
)
from channeltok.fit import Fit
from channeltok.quality import Quality
from channeltok.tokens import Tokens

MAX_ATTEMPTS = 5  # at one shard; then the run goes on without it and reports it
BACKOFF_SECONDS = 1.0  # before the second attempt; doubles each time

OnImage = Callable[[int, Reject | None], None]
"""Called for each image with its size in bytes, and its reject if it has no tokens."""
OnFailure = Callable[[str, bool], None]
"""Called for each failed attempt with the reason, and whether another attempt follows."""


class Engine(Protocol):
    """Makes tokens of images: `channeltok.Client`, or an engine in this process."""

    def tokenizers(self) -> list[TokenizerInfo]:
        """The tokenizers it has, the default first."""
        ...

    def encode_stream(
        self,
        images: Iterable[bytes],
        k: int | None = None,
        tokenizer: str | None = None,
        *,
        quality: Quality | None = None,
        fit: Fit = "crop",
    ) -> Generator[Tokens | ChannelTokError, None, None]:
        """Yield the tokens or the error of each image, in order. Must be thread-safe."""
        ...


def with_retries(
    attempt: Callable[[int], Entry],
    on_failure: OnFailure | None = None,
    sleep: Callable[[float], object] = time.sleep,
) -> tuple[Entry | None, str]:
    """Call `attempt` until it succeeds, again where the engine or a file system failed.

    Args:
        attempt: called with the number of the attempt, 0 to MAX_ATTEMPTS - 1.
        on_failure: called after each failure.
        sleep: waits so many seconds; a true result stops the retries.

    Returns:
        The entry and "", or None and the last reason.
    """
    for number in range(MAX_ATTEMPTS):
        try:
            return attempt(number), ""
        except (ChannelTokError, SourceError, OSError) as error:
            reason = str(error)
            retrying = number < MAX_ATTEMPTS - 1 and not isinstance(error, SourceError)
            if on_failure is not None:
                on_failure(reason, retrying)
            delay = max(getattr(error, "retry_after", None) or 0.0, BACKOFF_SECONDS * 2**number)
            if not retrying or sleep(delay):
                break
    return None, reason


@dataclass(frozen=True)
class ShardTokenizer:
    """Tokenizes the shards of one run. Can be pickled.

    Attributes:
        destination: where the token shards go.
        info: the tokenizer that the run uses.
        k: tokens per image; None where `quality` chooses.
        container: "parquet" or "webdataset".
        quality: chooses k for each image.
        fit: what part of each image the tokenizer sees.
        keep: names of the columns of the source that are kept.
    """

    destination: Destination
    info: TokenizerInfo
    k: int | None
    container: str
    quality: Quality | None = None
    fit: Fit = "crop"
    keep: tuple[str, ...] = ()

    @property
    def description(self) -> Description:
        """What all rows have in common."""
        quality = None if self.quality is None else str(self.quality)
        return Description.of(self.info, self.k, quality, self.fit, keep=self.keep)

    def run(self, shard: Shard, engine: Engine, on_image: OnImage | None = None) -> Entry:
        """Tokenize a shard and put it in place. Running it twice does no harm.

        Raises:
            SourceError: the shard cannot be read.
            ChannelTokError: the engine fails. A bad image becomes a reject instead.
            OSError: reading or writing fails.
        """
        rows, rejects = self._tokenize(shard, engine, on_image)
        lengths = None
        if self.quality is not None:
            lengths = LengthStats()
            for row in rows:
                lengths.add(row.tokens, self.quality)
        entry = Entry(shard.path, shard.identity, len(rows), rejects, lengths)
        self.destination.finish(
            shard.name, CONTAINERS[self.container](rows, self.description), entry
        )
        return entry

    def _tokenize(
        self, shard: Shard, engine: Engine, on_image: OnImage | None
    ) -> tuple[list[Row], list[Reject]]:
        info = self.info
        rows, rejects = list[Row](), list[Reject]()
        sent: deque[Sample] = deque()

        def report(sample: Sample, reject: Reject | None) -> None:
            if on_image is not None:
                on_image(len(sample.image), reject)

        def refuse(sample: Sample, code: str, reason: str) -> None:
            rejects.append(Reject(sample.key, shard.path, sample.offset, code, reason))
            report(sample, rejects[-1])

        def images() -> Iterator[bytes]:
            for sample in shard.samples():
                if sample.refusal:
                    refuse(sample, "UNREADABLE", sample.refusal)
                else:
                    sent.append(sample)
                    yield sample.image

        for result in engine.encode_stream(
            images(), self.k, info.name, quality=self.quality, fit=self.fit
        ):
            sample = sent.popleft()
            if isinstance(result, (InvalidInput, TooLarge)):
                refuse(sample, result.code, result.message)
            elif isinstance(result, ChannelTokError):
                raise result
            elif result.fingerprint != info.fingerprint:
                raise FingerprintMismatch(
                    "FINGERPRINT_MISMATCH",
                    f"the engine now serves {result.fingerprint}; the run began with "
                    f"{info.fingerprint}",
                )
            elif result.view is None:
                raise InternalError(
                    "INTERNAL",
                    "the service is older than this client: it does not say what it saw",
                )
            else:
                origin = (shard.path, sample.offset, sample.label, sample.label_id)
                rows.append(Row(sample.key, result, info.name, *origin, sample.columns))
                report(sample, None)
        return rows, sorted(rejects, key=lambda reject: reject.offset)

"""Tokenize one shard and put it in place; in a thread here or on a Ray worker."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Protocol

from channeltok._messages import TokenizerInfo
from channeltok.datasets.destination import Destination
from channeltok.datasets.errors import SourceError
from channeltok.datasets.ledger import Entry, Reject
from channeltok.datasets.length_stats import LengthStats
from channeltok.datasets.reject_limit import RejectLimit
from channeltok.datasets.retries import Patience, SourceFailed, Wait
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

OnImage = Callable[[int, Reject | None], None]
"""Called for each image with its size in bytes, and its reject if it has no tokens."""


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
        limit: how many rejects a shard may have.
    """

    destination: Destination
    info: TokenizerInfo
    k: int | None
    container: str
    quality: Quality | None = None
    fit: Fit = "crop"
    keep: tuple[str, ...] = ()
    limit: RejectLimit = field(default_factory=RejectLimit)

    @property
    def description(self) -> Description:
        """What all rows have in common."""
        quality = None if self.quality is None else str(self.quality)
        return Description.of(self.info, self.k, quality, self.fit, keep=self.keep)

    def run(
        self,
        shard: Shard,
        engine: Engine,
        patience: Patience,
        on_image: OnImage | None = None,
    ) -> Entry:
        """Tokenize a shard and put it in place. Running it twice does no harm.

        Raises:
            SourceError: the shard is damaged.
            SourceFailed: the shard could not be read this time.
            TooManyRejects: the shard has more rejects than its share.
            ChannelTokError: the engine fails. A bad image becomes a reject instead.
            DestinationError: nothing can be written.
            ValueError: this token shard cannot be written.
        """
        with patience.waiting() as wait:
            rows, rejects = self._tokenize(shard, engine, wait, on_image)
        self.limit.check_shard(shard.path, len(rows) + len(rejects), rejects)
        lengths = None
        if self.quality is not None:
            lengths = LengthStats()
            for row in rows:
                lengths.add(row.tokens, self.quality)
        skipped = dict(sorted(shard.skipped.items()))
        entry = Entry(shard.path, shard.identity, len(rows), rejects, lengths, skipped)
        content = CONTAINERS[self.container](rows, self.description)
        self.destination.finish(shard.name, content, entry)
        return entry

    def _tokenize(
        self, shard: Shard, engine: Engine, wait: Wait, on_image: OnImage | None
    ) -> tuple[list[Row], list[Reject]]:
        rows, rejects = list[Row](), list[Reject]()
        sent: deque[Sample] = deque()

        def report(sample: Sample, reject: Reject | None) -> None:
            if on_image is not None:
                on_image(len(sample.image), reject)

        def refuse(sample: Sample, code: str, reason: str) -> None:
            rejects.append(Reject(sample.key, shard.path, sample.offset, code, reason))
            report(sample, rejects[-1])

        def images() -> Iterator[bytes]:
            wait.reading()
            for sample in _read(shard):
                if sample.refusal:
                    refuse(sample, "UNREADABLE", sample.refusal)
                else:
                    sent.append(sample)
                    wait.sent()
                    yield sample.image
                    wait.reading()
            wait.read_all()

        results = engine.encode_stream(
            images(), self.k, self.info.name, quality=self.quality, fit=self.fit
        )
        with closing(results):
            for result in results:
                sample = sent.popleft()
                if isinstance(result, (InvalidInput, TooLarge)):
                    wait.answered()
                    refuse(sample, result.code, result.message)
                elif isinstance(result, ChannelTokError):
                    raise result
                else:
                    wait.answered()
                    rows.append(self._row(shard, sample, result))
                    report(sample, None)
        return rows, sorted(rejects, key=lambda reject: reject.offset)

    def _row(self, shard: Shard, sample: Sample, tokens: Tokens) -> Row:
        if tokens.fingerprint != self.info.fingerprint:
            raise FingerprintMismatch(
                "FINGERPRINT_MISMATCH",
                f"the engine now serves {tokens.fingerprint}; the run began with "
                f"{self.info.fingerprint}",
            )
        if tokens.view is None:
            raise InternalError(
                "INTERNAL", "the service is older than this client: it does not say what it saw"
            )
        origin = (shard.path, sample.offset, sample.label, sample.label_id)
        return Row(sample.key, tokens, self.info.name, *origin, sample.columns)


def _read(shard: Shard) -> Iterator[Sample]:
    """The samples of a shard. Raises SourceError, or SourceFailed with any other cause."""
    try:
        yield from shard.samples()
    except SourceError:
        raise
    except Exception as error:
        raise SourceFailed(shard.path) from error

"""Tokenize one shard and put it in place; in a thread here or on a Ray worker."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

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
from channeltok.images import Pixels
from channeltok.quality import Quality
from channeltok.tokens import Tokens

if TYPE_CHECKING:
    from channeltok.local.random_views import RandomView

OnImage = Callable[[int, Reject | None], None]
"""Called for each image with its size in bytes, and its reject if it has no tokens."""


class Engine(Protocol):
    """Makes tokens of images: `channeltok.Client`, or an engine in this process."""

    def tokenizers(self) -> list[TokenizerInfo]:
        """The tokenizers it has, the default first."""
        ...

    def encode_stream(
        self,
        images: Iterable[bytes | Pixels],
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
        views: number of random views of each image, a row each; 0 for the image itself.
        seed: of the views.
    """

    destination: Destination
    info: TokenizerInfo
    k: int | None
    container: str
    quality: Quality | None = None
    fit: Fit = "crop"
    keep: tuple[str, ...] = ()
    limit: RejectLimit = field(default_factory=RejectLimit)
    views: int = 0
    seed: int = 0

    @property
    def description(self) -> Description:
        """What all rows have in common."""
        quality = None if self.quality is None else str(self.quality)
        return Description.of(
            self.info, self.k, quality, self.fit, self.views, self.seed, self.keep
        )

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
        images = len(rows) // max(1, self.views) + len(rejects)
        self.limit.check_shard(shard.path, images, rejects)
        lengths = None
        if self.quality is not None:
            lengths = LengthStats()
            for row in rows:
                lengths.add(row.tokens, self.quality)
        skipped = dict(sorted(shard.skipped.items()))
        entry = Entry(shard.path, shard.identity, len(rows), rejects, lengths, skipped)
        content = CONTAINERS[self.container](rows, self.description)
        if shard.class_names:
            self.destination.add_classes(shard.class_names)
        self.destination.finish(shard.name, content, entry)
        return entry

    def _tokenize(
        self, shard: Shard, engine: Engine, wait: Wait, on_image: OnImage | None
    ) -> tuple[list[Row], list[Reject]]:
        rows, rejects = list[Row](), list[Reject]()
        sent: deque[tuple[Sample, RandomView | None]] = deque()

        def report(sample: Sample, view: "RandomView | None", reject: Reject | None) -> None:
            if on_image is not None:
                again = view is not None and view.number > 1  # its bytes were counted
                on_image(0 if again else len(sample.image), reject)

        def refuse(sample: Sample, code: str, reason: str) -> None:
            rejects.append(Reject(sample.key, shard.path, sample.offset, code, reason))
            report(sample, None, rejects[-1])

        def images() -> Iterator[bytes | Pixels]:
            wait.reading()
            for sample in _read(shard):
                try:
                    views = self._views(sample)
                except InvalidInput as error:
                    refuse(sample, error.code, error.message)
                    continue
                for view in views:
                    sent.append((sample, view))
                    wait.sent()
                    yield sample.image if view is None else view.pixels
                    wait.reading()
            wait.read_all()

        results = engine.encode_stream(
            images(), self.k, self.info.name, quality=self.quality, fit=self.fit
        )
        with closing(results):
            for result in results:
                sample, view = sent.popleft()
                if isinstance(result, (InvalidInput, TooLarge)):
                    wait.answered()
                    refuse(sample, result.code, result.message)
                elif isinstance(result, ChannelTokError):
                    raise result
                else:
                    wait.answered()
                    rows.append(self._row(shard, sample, view, result))
                    report(sample, view, None)
        return rows, sorted(rejects, key=lambda reject: reject.offset)

    def _views(self, sample: Sample) -> "Sequence[RandomView | None]":
        """What is sent of a sample, None for its image. Raises InvalidInput for a bad image."""
        if sample.refusal:
            raise InvalidInput("UNREADABLE", sample.refusal)
        if not self.views:
            return [None]
        from channeltok.local.random_views import RandomViews  # an extra

        views = RandomViews(self.seed, self.info.image_size, self.fit)
        return views.of(sample.image, sample.key, range(1, self.views + 1))

    def _row(self, shard: Shard, sample: Sample, view: "RandomView | None", tokens: Tokens) -> Row:
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
        key, number, flipped = sample.key, None, False
        if view is not None:
            key, number, flipped = f"{key}@{view.number}", view.number, view.flipped
            tokens = replace(tokens, view=view.seen)
        return Row(
            key,
            tokens,
            self.info.name,
            shard.path,
            sample.offset,
            sample.label,
            sample.label_id,
            sample.columns,
            number,
            flipped,
        )


def _read(shard: Shard) -> Iterator[Sample]:
    """The samples of a shard. Raises SourceError, or SourceFailed with any other cause."""
    try:
        yield from shard.samples()
    except SourceError:
        raise
    except Exception as error:
        raise SourceFailed(shard.path) from error

"""One shard from its images to its place: the same wherever it is done, in a thread here or on another machine."""

import io
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from channeltok._messages import TokenizerInfo
from channeltok.datasets.destination import Destination, Entry, Reject
from channeltok.datasets.length_stats import Lengths
from channeltok.datasets.sources import Sample, Shard, SourceError
from channeltok.datasets.writers import CONTAINERS, Row
from channeltok.errors import ChannelTokError, FingerprintMismatch, InvalidInput, TooLarge
from channeltok.quality import Quality
from channeltok.tokens import Tokens

ATTEMPTS = 5  # at a shard whose engine fails; then the run goes on without it, and says so
BACKOFF_SECONDS = 1.0  # before the second attempt; doubles
Each = Callable[
    [int, Reject | None], None
]  # told of each image: its bytes, and why it has no tokens


class Engine(Protocol):
    """Whatever makes tokens: `channeltok.Client`, or an engine in this process."""

    def tokenizers(self) -> list[TokenizerInfo]:
        """What it has, the default first."""
        ...

    def encode_stream(
        self,
        images: Iterable[bytes],
        k: int | None = None,
        tokenizer: str | None = None,
        *,
        quality: Quality | None = None,
    ) -> Generator[Tokens | ChannelTokError, None, None]:
        """For each image, in order, its tokens or its error. Safe to call from several threads."""
        ...


def patiently(
    attempt: Callable[[int], Entry],
    failed: Callable[[str, bool], None] = lambda why, again: None,
    sleep: Callable[[float], object] = time.sleep,
) -> tuple[Entry | None, str]:
    """Do a shard, and do it again where its engine or a file system failed: its entry, or None and why.

    attempt: is given its number. failed: told why, and whether there is another attempt. sleep: seconds; something true ends it all.
    """
    for number in range(ATTEMPTS):
        try:
            return attempt(number), ""
        except (ChannelTokError, SourceError, OSError) as error:
            why = str(error)
            again = number < ATTEMPTS - 1 and not isinstance(error, SourceError)
            failed(why, again)
            if not again or sleep(
                max(getattr(error, "retry_after", None) or 0.0, BACKOFF_SECONDS * 2**number)
            ):
                break
    return None, why


@dataclass(frozen=True)
class Job:
    """What is the same for all shards of a run. k: None where the quality decides. Can be pickled."""

    place: Destination
    info: TokenizerInfo
    k: int | None
    container: str
    quality: Quality | None = None

    def do(
        self, shard: Shard, engine: Engine, each: Each = lambda source_bytes, reject: None
    ) -> Entry:
        """Tokenize a shard and put it in its place. Calling it again does no harm.

        Raises SourceError, ChannelTokError where the engine fails (only what is wrong with an image makes a reject), OSError.
        """
        rows, rejects = self._tokenized(shard, engine, each)
        lengths = None
        if self.quality is not None:
            lengths = Lengths()
            for row in rows:
                lengths.add(row.tokens, self.quality)
        entry = Entry(shard.path, shard.identity, len(rows), rejects, lengths)
        self.place.finish(shard.name, CONTAINERS[self.container](rows, self.k), entry)
        return entry

    def _tokenized(
        self, shard: Shard, engine: Engine, each: Each
    ) -> tuple[list[Row], list[Reject]]:
        info = self.info
        rows, rejects = list[Row](), list[Reject]()
        sent: deque[tuple[Sample, tuple[int, int]]] = deque()

        def refuse(sample: Sample, code: str, reason: str) -> None:
            rejects.append(Reject(sample.key, shard.path, sample.offset, code, reason))
            each(len(sample.image), rejects[-1])

        def images() -> Iterator[bytes]:
            for sample in shard.samples():
                if sample.refusal:
                    refuse(sample, "UNREADABLE", sample.refusal)
                else:
                    sent.append((sample, _size(sample.image)))
                    yield sample.image

        for result in engine.encode_stream(images(), self.k, info.name, quality=self.quality):
            sample, (width, height) = sent.popleft()
            if isinstance(result, (InvalidInput, TooLarge)):
                refuse(sample, result.code, result.message)
            elif isinstance(result, ChannelTokError):
                raise result
            elif result.fingerprint != info.fingerprint:
                changed = f"the engine now serves {result.fingerprint}; the run began with {info.fingerprint}"
                raise FingerprintMismatch("FINGERPRINT_MISMATCH", changed)
            else:
                rows.append(
                    Row(
                        sample.key,
                        result,
                        info.name,
                        shard.path,
                        sample.offset,
                        sample.label,
                        width,
                        height,
                    )
                )
                each(len(sample.image), None)
        return rows, sorted(rejects, key=lambda reject: reject.offset)


def _size(image: bytes) -> tuple[int, int]:
    """Width and height as the header says; 0, 0 for what is no image, which the engine will say better."""
    try:
        with Image.open(io.BytesIO(image)) as opened:
            return opened.size
    except Exception:
        return 0, 0

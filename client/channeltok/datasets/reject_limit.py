"""How many images may be rejected: a share of each shard, or a number in a run."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from typing_extensions import Self

from channeltok.datasets.errors import TooManyRejects
from channeltok.datasets.ledger import Reject

DEFAULT = "50%"


@dataclass(frozen=True)
class RejectLimit:
    """Either of the two.

    Attributes:
        share: of the images of each shard, 0 to 1; a shard with more fails, and the run goes on.
        count: of images in a run; with more the run ends.
    """

    share: float | None = None
    count: int | None = None

    @classmethod
    def parse(cls, limit: str | int) -> Self:
        """Read 100 or "100" (a count), or "5%" (a share). Raises ValueError."""
        text = str(limit).strip()
        try:
            if text.endswith("%"):
                percent = float(text[:-1])
                if 0 <= percent <= 100:
                    return cls(share=percent / 100)
            elif int(text) >= 0:
                return cls(count=int(text))
        except ValueError:
            pass
        raise ValueError(
            f"max_rejects is a number of images in a run, such as 100, or a share of each shard "
            f"from 0% to 100%, not {text!r}"
        )

    def check_shard(self, path: str, images: int, rejects: Sequence[Reject]) -> None:
        """Raise TooManyRejects if a shard of `images` images has more rejects than its share."""
        if self.share is None or len(rejects) <= self.share * images:
            return
        amount = f"{len(rejects):,} of {images:,}" if images > len(rejects) else f"all {images:,}"
        raise TooManyRejects(
            f"{amount} images were rejected, and {self.share:.0%} of a shard are allowed; "
            f"{explain(rejects)}"
        )

    def check_run(self, rejects: Sequence[Reject]) -> None:
        """Raise TooManyRejects if a run has more rejects than the count."""
        if self.count is not None and len(rejects) > self.count:
            raise TooManyRejects(
                f"{len(rejects):,} images were rejected, and {self.count:,} are allowed; "
                f"{explain(rejects)}"
            )


def explain(rejects: Sequence[Reject]) -> str:
    """The most frequent reason, and an image that has it."""
    (code, count), *_ = Counter(reject.code for reject in rejects).most_common(1)
    first = next(reject for reject in rejects if reject.code == code)
    return f"{count:,} of them {code}, such as {first.key} in {first.source}: {first.reason}"

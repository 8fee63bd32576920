"""Choose the number of tokens by image quality (SSIM, PSNR) or size instead of a fixed k."""

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from operator import attrgetter

from typing_extensions import Self

# Values of k to try, as shares of max_tokens: about geometric, neighbours 4/3 to 2 times apart.
_SHARES = (1 / 32, 1 / 16, 3 / 32, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 1)
BYTES_PER_TOKEN = 2
K_AND_QUALITY = "k and quality exclude each other: pass one of them"
_TARGETS = {"ssim": 1.0, "psnr": math.inf, "ssim_per_token": 1.0}  # name -> largest value
# float() and int() also take "1_0", " 1", "inf" and the digits of other scripts.
_NUMBER = re.compile(r"-?[0-9]{0,20}\.?[0-9]{1,20}(e[+-]?[0-9]{1,3})?", re.IGNORECASE)
WHOLE_NUMBER = re.compile(r"-?[0-9]{1,20}")


@dataclass(frozen=True)
class QualityPoint:
    """Quality of the image decoded from the first k tokens.

    It is compared with the original as the tokenizer sees it: cropped and resized.

    Attributes:
        k: number of tokens.
        ssim: structural similarity, at most 1.
        psnr: peak signal-to-noise ratio, dB.
    """

    k: int
    ssim: float
    psnr: float


@dataclass(frozen=True)
class Quality:
    """Chooses k for each image: by one target, by a size limit, or by a target within a limit.

    Attributes:
        ssim: the fewest tokens whose image reaches this SSIM, above 0 and at most 1; if none of
            the k tried does, the best image.
        psnr: the same for PSNR in dB, above 0.
        ssim_per_token: stop adding tokens once the SSIM gain per token drops below this (above 0,
            at most 1). Maximises the mean SSIM of many images for a total number of tokens.
        max_bytes: size limit of the ids, 2 bytes per token. Alone: the best image within it.

    Raises:
        ValueError: no attribute is set, two targets are, or a value is out of range.
    """

    ssim: float | None = None
    psnr: float | None = None
    ssim_per_token: float | None = None
    max_bytes: int | None = None

    def __post_init__(self) -> None:
        targets = [name for name in _TARGETS if getattr(self, name) is not None]
        if len(targets) > 1:
            raise ValueError(f"a quality has one target: {targets[0]} or {targets[1]}, not both")
        if not targets and self.max_bytes is None:
            raise ValueError(f"a quality needs one of {', '.join(_TARGETS)}, max_bytes")
        for name in targets:
            value, largest = getattr(self, name), _TARGETS[name]
            if not 0 < value <= largest or value == math.inf:
                limit = f" and at most {largest}" if largest < math.inf else ""
                raise ValueError(f"{name} is above 0{limit}, not {value:g}")
        if self.max_bytes is not None and self.max_bytes < BYTES_PER_TOKEN:
            raise ValueError(
                f"max_bytes is at least {BYTES_PER_TOKEN}, one token, not {self.max_bytes}"
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "ssim=0.6", "psnr=24", "ssim_per_token=0.001", "max_bytes=128", or a target and a
        limit separated by a comma. Raises ValueError.
        """
        values: dict[str, float | int] = {}
        for part in text.split(","):
            name, _, value = part.strip().partition("=")
            if name not in (*_TARGETS, "max_bytes") or name in values:
                raise ValueError(
                    "a quality is written like ssim=0.6 or psnr=24,max_bytes=128, "
                    f"not {text[:60]!r}"
                )
            whole = name == "max_bytes"
            if not (WHOLE_NUMBER if whole else _NUMBER).fullmatch(value):
                kind = "a whole number" if whole else "a number"
                raise ValueError(f"{name} is {kind}, not {value[:20]!r}")
            values[name] = int(value) if whole else float(value)
        return cls(**values)  # type: ignore[arg-type]

    def __str__(self) -> str:
        """The text that `parse` reads."""
        return ",".join(
            f"{name}={value:g}" for name, value in asdict(self).items() if value is not None
        )

    def budgets(self, max_tokens: int) -> list[int]:
        """The values of k to try for a tokenizer with `max_tokens`, ascending."""
        largest = max_tokens
        if self.max_bytes is not None:
            largest = min(largest, self.max_bytes // BYTES_PER_TOKEN)
        tried = (round(share * max_tokens) for share in _SHARES)
        return sorted({largest, *(k for k in tried if 1 <= k < largest)})

    def choose(self, curve: Sequence[QualityPoint]) -> QualityPoint:
        """The point of `curve` (ascending k, not empty) to use; of equals the one of smallest k."""
        price = self.ssim_per_token
        if price is not None:
            return max(curve, key=lambda point: (point.ssim - price * point.k, -point.k))
        for point in curve:
            if self.reached_by(point):
                return point
        measure = attrgetter("ssim" if self.psnr is None else "psnr")
        return max(curve, key=lambda point: (measure(point), -point.k))

    def reached_by(self, point: QualityPoint) -> bool:
        """Whether `point` reaches the ssim or psnr target; False without such a target."""
        if self.ssim is not None:
            return point.ssim >= self.ssim
        return self.psnr is not None and point.psnr >= self.psnr

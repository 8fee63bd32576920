"""How many tokens an image needs: asked for by what the image must be like, not by a number."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Self

# What is tried, as shares of a tokenizer's max_tokens: finer where a step costs more bytes.
_TRIED = (1 / 32, 1 / 16, 3 / 32, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 1)
BYTES_PER_TOKEN = 2
_TARGETS = {
    "ssim": 1.0,
    "psnr": float("inf"),
    "ssim_per_token": 1.0,
}  # name -> the most that can be asked


@dataclass(frozen=True)
class QualityPoint:
    """What the image is like that the first k tokens make, against the original as the tokenizer sees it.

    ssim: structural similarity, at most 1. psnr: peak signal-to-noise ratio, dB.
    """

    k: int
    ssim: float
    psnr: float


@dataclass(frozen=True)
class Quality:
    """How many tokens an image is worth, by one target, or by a limit, or by a target within a limit. Raises ValueError.

    ssim (above 0, at most 1), psnr (dB, above 0): the fewest tokens that reach it; where none of what is tried does, those that make the
    best image. ssim_per_token (above 0): tokens for as long as they bring so much SSIM each: of all ways to spend a number of tokens on
    many images, the one with the highest mean SSIM. max_bytes: 2 for each token; alone, the best image within it.
    """

    ssim: float | None = None
    psnr: float | None = None
    ssim_per_token: float | None = None
    max_bytes: int | None = None

    def __post_init__(self) -> None:
        targets = [name for name in _TARGETS if getattr(self, name) is not None]
        if len(targets) > 1:
            raise ValueError(f"a quality is an {targets[0]} or a {targets[1]}, not both")
        if not targets and self.max_bytes is None:
            raise ValueError(f"a quality needs {', '.join(_TARGETS)} or max_bytes")
        for name in targets:
            value, most = getattr(self, name), _TARGETS[name]
            if not 0 < value <= most or value == float("inf"):
                raise ValueError(
                    f"{name} is above 0{f' and at most {most}' if most < float('inf') else ''}, not {value:g}"
                )
        if self.max_bytes is not None and self.max_bytes < BYTES_PER_TOKEN:
            raise ValueError(
                f"max_bytes is at least {BYTES_PER_TOKEN}, one token, not {self.max_bytes}"
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """From "ssim=0.6", "psnr=24", "ssim_per_token=0.001", "max_bytes=128", or a target and a limit with a comma between.

        Raises ValueError.
        """
        given: dict[str, float | int] = {}
        for part in text.split(","):
            name, _, value = part.strip().partition("=")
            if name not in (*_TARGETS, "max_bytes") or name in given:
                raise ValueError(
                    f"a quality is written like ssim=0.6 or psnr=24,max_bytes=128, not {text[:60]!r}"
                )
            try:
                given[name] = int(value) if name == "max_bytes" else float(value)
            except ValueError as error:
                raise ValueError(f"{name} is a number, not {value[:20]!r}") from error
        return cls(**given)  # type: ignore[arg-type]

    def __str__(self) -> str:
        """As `parse` reads it."""
        return ",".join(
            f"{name}={value:g}" for name, value in asdict(self).items() if value is not None
        )

    def budgets(self, max_tokens: int) -> list[int]:
        """The k to try, ascending, for a tokenizer of so many max_tokens."""
        most = (
            max_tokens
            if self.max_bytes is None
            else min(max_tokens, self.max_bytes // BYTES_PER_TOKEN)
        )
        return sorted(
            {most, *(k for share in _TRIED if 1 <= (k := round(share * max_tokens)) < most)}
        )

    def choose(self, curve: Sequence[QualityPoint]) -> QualityPoint:
        """Of `curve`, by ascending k; of equals the shortest."""
        if self.ssim_per_token is not None:
            price = self.ssim_per_token
            return max(curve, key=lambda one: (one.ssim - price * one.k, -one.k))
        reached = next((one for one in curve if self.reached_by(one)), None)
        return reached or max(
            curve, key=lambda one: (one.ssim if self.psnr is None else one.psnr, -one.k)
        )

    def reached_by(self, one: QualityPoint) -> bool:
        """Whether it has the ssim or psnr asked for; False where neither is."""
        if self.ssim is not None:
            return one.ssim >= self.ssim
        return self.psnr is not None and one.psnr >= self.psnr

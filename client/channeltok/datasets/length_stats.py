"""How many tokens images got that were encoded to a quality, and what the same number for all would have cost."""

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np

from channeltok.quality import Quality
from channeltok.tokens import Tokens

_BYTES_PER_TOKEN = 2


@dataclass
class Sums:
    """Over images: of their SSIM and their PSNR, and how many reach what was asked."""

    ssim: float = 0.0
    psnr: float = 0.0
    reached: int = 0

    def add(self, other: "Sums") -> None:
        self.ssim += other.ssim
        self.psnr += other.psnr
        self.reached += other.reached


@dataclass
class Lengths:
    """images: k -> how many have so many tokens. chosen: of these images as they are. fixed: k -> had all of them k tokens."""

    images: Counter[int] = field(default_factory=Counter)
    chosen: Sums = field(default_factory=Sums)
    fixed: dict[int, Sums] = field(default_factory=dict)

    def add(self, tokens: Tokens, asked: Quality) -> None:
        """One image, of which `tokens.curve` is known."""
        self.images[tokens.k] += 1
        for one in tokens.curve:
            sums = Sums(one.ssim, one.psnr, int(asked.reached_by(one)))
            self.fixed.setdefault(one.k, Sums()).add(sums)
            if one.k == tokens.k:
                self.chosen.add(sums)

    def merge(self, other: "Lengths") -> None:
        """Those of another shard."""
        self.images.update(other.images)
        self.chosen.add(other.chosen)
        for k, sums in other.fixed.items():
            self.fixed.setdefault(k, Sums()).add(sums)

    def told(self) -> dict[str, Any]:
        """For a summary. bytes: of all ids.

        as_alike, as_sure: had all images the same k, the k at which their mean SSIM is the same, and the one at which as many reach what
        was asked; between two that were tried, by linear interpolation. saved: the share of its bytes that choosing k by image does
        without; negative where it takes more.
        """
        count = self.images.total()
        if not count:
            return {}
        mean_k = sum(k * images for k, images in self.images.items()) / count
        tried = sorted(self.fixed)

        def same_for_all(measure: Callable[[Sums], float]) -> dict[str, float]:
            k = float(
                np.interp(
                    measure(self.chosen),
                    np.maximum.accumulate([measure(self.fixed[one]) for one in tried]),
                    tried,
                )
            )
            return {"k": k, "bytes": round(_BYTES_PER_TOKEN * k * count), "saved": 1 - mean_k / k}

        def mean(sums: Sums) -> dict[str, float]:
            return {
                "mean_ssim": sums.ssim / count,
                "mean_psnr": sums.psnr / count,
                "reached": sums.reached,
            }

        return {
            "mean_k": mean_k,
            "images_by_k": dict(sorted(self.images.items())),
            **mean(self.chosen),
            "bytes": round(_BYTES_PER_TOKEN * mean_k * count),
            "as_alike": same_for_all(lambda sums: sums.ssim),
            "as_sure": same_for_all(lambda sums: sums.reached) if self.chosen.reached else None,
            "fixed": [{"k": k, **mean(self.fixed[k])} for k in tried],
        }

    def written(self) -> dict[str, Any]:
        """For a ledger; `read` takes it, through JSON too."""
        fixed = {k: asdict(sums) for k, sums in self.fixed.items()}
        return {"images": dict(self.images), "chosen": asdict(self.chosen), "fixed": fixed}

    @classmethod
    def read(cls, written: dict[str, Any]) -> Self:
        images = Counter({int(k): count for k, count in written["images"].items()})
        fixed = {int(k): Sums(**sums) for k, sums in written["fixed"].items()}
        return cls(images, Sums(**written["chosen"]), fixed)

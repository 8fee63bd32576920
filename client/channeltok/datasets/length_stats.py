"""Statistics of variable-length tokens: how many each image took, and what one fixed k would cost.

They exist where a `Quality` chose k for each image, and come from the curves it measured.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from typing_extensions import Self

from channeltok.quality import BYTES_PER_TOKEN, Quality
from channeltok.tokens import Tokens


@dataclass
class QualitySums:
    """Sums over images: SSIM, PSNR in dB, and the number that reach the requested quality."""

    ssim: float = 0.0
    psnr: float = 0.0
    reached: int = 0

    def add(self, other: "QualitySums") -> None:
        self.ssim += other.ssim
        self.psnr += other.psnr
        self.reached += other.reached


@dataclass
class LengthStats:
    """Statistics of a set of images.

    Attributes:
        images: k -> number of images with k tokens.
        chosen: sums over the images at the k that was chosen for each.
        fixed: k -> sums over the images if all had k tokens.
    """

    images: Counter[int] = field(default_factory=Counter)
    chosen: QualitySums = field(default_factory=QualitySums)
    fixed: dict[int, QualitySums] = field(default_factory=dict)

    def add(self, tokens: Tokens, quality: Quality) -> None:
        """Add an image. `tokens.curve` must be present; `quality` is what was requested."""
        self.images[tokens.k] += 1
        for point in tokens.curve:
            sums = QualitySums(point.ssim, point.psnr, int(quality.reached_by(point)))
            self.fixed.setdefault(point.k, QualitySums()).add(sums)
            if point.k == tokens.k:
                self.chosen.add(sums)

    def merge(self, other: "LengthStats") -> None:
        """Add the statistics of another shard."""
        self.images.update(other.images)
        self.chosen.add(other.chosen)
        for k, sums in other.fixed.items():
            self.fixed.setdefault(k, QualitySums()).add(sums)

    def summary(self) -> dict[str, Any]:
        """Means and totals; empty without images. `bytes` counts all ids.

        fixed_k_same_ssim, fixed_k_same_reached: the one k for all images at which the mean SSIM,
        or the number of images that reach the quality, is the same (by linear interpolation
        between measured k). `saved` is the share of its bytes that choosing k by image saves;
        negative if choosing costs more.
        """
        count = self.images.total()
        if not count:
            return {}
        mean_k = sum(k * images for k, images in self.images.items()) / count
        measured = sorted(self.fixed)

        def same_for_all(measure: Callable[[QualitySums], float]) -> dict[str, float]:
            values = np.maximum.accumulate([measure(self.fixed[k]) for k in measured])
            k = float(np.interp(measure(self.chosen), values, measured))
            return {"k": k, "bytes": round(BYTES_PER_TOKEN * k * count), "saved": 1 - mean_k / k}

        def means(sums: QualitySums) -> dict[str, float]:
            return {
                "mean_ssim": sums.ssim / count,
                "mean_psnr": sums.psnr / count,
                "reached": sums.reached,
            }

        return {
            "mean_k": mean_k,
            "images_by_k": dict(sorted(self.images.items())),
            **means(self.chosen),
            "bytes": round(BYTES_PER_TOKEN * mean_k * count),
            "fixed_k_same_ssim": same_for_all(lambda sums: sums.ssim),
            "fixed_k_same_reached": (
                same_for_all(lambda sums: sums.reached) if self.chosen.reached else None
            ),
            "fixed": [{"k": k, **means(self.fixed[k])} for k in measured],
        }

    def to_json(self) -> dict[str, Any]:
        """For the ledger; `from_json` reads it back."""
        fixed = {k: asdict(sums) for k, sums in self.fixed.items()}
        return {"images": dict(self.images), "chosen": asdict(self.chosen), "fixed": fixed}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        images = Counter({int(k): count for k, count in data["images"].items()})
        fixed = {int(k): QualitySums(**sums) for k, sums in data["fixed"].items()}
        return cls(images, QualitySums(**data["chosen"]), fixed)

"""Baseline codecs: JPEG, WebP and AVIF at given bytes, best over quality and downscaling."""

import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

CODECS: dict[str, dict[str, object]] = {
    "JPEG": {"optimize": True, "progressive": False, "subsampling": "4:2:0"},
    "WebP": {"method": 6},
    # Slower AVIF speeds save nothing on so few pixels, for 6 times the time.
    "AVIF": {"speed": 6, "max_threads": 1},
}
# Sides a photo is downscaled to before saving, for photos of 128; proportional for others.
SCALES = (8, 12, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128)
QUALITIES = (0, 1, 2, 3, 4, 5, 7, 10, 13, 16, 20, 25, 30, 36, 43, 50, 60, 70, 80, 90)


@dataclass(frozen=True)
class Saved:
    """A photo after a codec. size: bytes of the file. image: uint8 [S, S, 3], resized back."""

    size: int
    image: NDArray[np.uint8]


def candidates(
    photo: NDArray[np.uint8], codec: str, sizes: tuple[int, ...]
) -> dict[int, list[Saved]]:
    """For each of `sizes` (bytes), the best quality that fits at each scale; empty where none fits.

    photo: uint8 [S, S, 3]. The caller chooses among scales, because the best depends on the metric.
    """
    fitting: dict[int, dict[int, Saved]] = {size: {} for size in sizes}
    for side in sorted({max(8, round(photo.shape[0] * scale / 128)) for scale in SCALES}):
        for data in _files_by_quality(
            Image.fromarray(photo).resize(
                (side, side), Image.Resampling.LANCZOS, reducing_gap=None
            ),
            codec,
        ):
            if len(data) > max(sizes):
                break
            for size in sizes:
                if len(data) <= size:
                    fitting[size][side] = Saved(len(data), _decoded(data, photo.shape[0]))
    return {size: list(by_side.values()) for size, by_side in fitting.items()}


def _files_by_quality(image: Image.Image, codec: str) -> Iterator[bytes]:
    for quality in QUALITIES:
        buffer = io.BytesIO()
        image.save(buffer, codec.upper(), quality=quality, **CODECS[codec])
        yield buffer.getvalue()


def _decoded(data: bytes, side: int) -> NDArray[np.uint8]:
    return np.asarray(
        Image.open(io.BytesIO(data)).convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
    )

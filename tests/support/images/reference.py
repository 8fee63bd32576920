"""The right pixels of a file: libvips, which shares no code of ours."""

import numpy as np
import pyvips
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


def decoded(data: bytes) -> Pixels:
    """uint8 [H, W, 3]: upright, on white, in sRGB. Raises pyvips.Error for damage as well."""
    image = pyvips.Image.new_from_buffer(data, "", fail_on="warning").autorot()
    if image.hasalpha():
        white = 65_535 if image.format == "ushort" else 255
        image = image.flatten(background=[white])
    if image.get_typeof("icc-profile-data"):
        image = image.icc_transform("srgb", embedded=True, intent="perceptual")
    if image.interpretation in ("grey16", "rgb16"):
        image = (
            (image >> 8).cast("uchar").copy(interpretation="b-w" if image.bands == 1 else "srgb")
        )
    if image.interpretation != "srgb":
        image = image.colourspace("srgb")
    pixels: Pixels = image.numpy()
    return (
        np.repeat(pixels.reshape(*pixels.shape[:2], -1), 3, axis=2)[..., :3]
        if image.bands == 1
        else pixels
    )


def psnr(first: Pixels, second: Pixels) -> float:
    """Peak signal-to-noise ratio of two images in dB; 108 if they are equal."""
    error = np.square(first.astype(float) - second).mean()
    return float(10 * np.log10(255**2 / max(1e-6, error)))

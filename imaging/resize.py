"""From a part of an upright image to the pixels that a tokenizer sees."""

from PIL import Image

Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels


def resize(image: Image.Image, box: Box, width: int, height: int) -> Image.Image:
    """Resize the part of `image` in `box` to width x height.

    A box filter by the largest whole factor, then bicubic with antialiasing.
    """
    return image.resize((width, height), Image.Resampling.BICUBIC, box=box, reducing_gap=1.0)

"""Images as people hold them: from there to what a call sends, and back.

| form                                         | sent as                                         |
|----------------------------------------------|-------------------------------------------------|
| bytes of a JPEG, PNG or WebP file            | the file                                        |
| path: str or os.PathLike                     | the file                                        |
| binary file object                           | the file, from where it is read next            |
| PIL image                                    | its pixels, or a PNG of it, see below           |
| array or tensor [H, W, 3]: uint8, or floats  | its pixels                                      |
| tensor of PyTorch, also [3, H, W]            | its pixels                                      |

Pixels are sRGB: red, green, blue. Floats are from 0 to 1 and rounded to the nearest of 256 levels.
A tensor of PyTorch may have its channels first where only one side is 3, so that it is clear.

A PIL image means what a PNG of it would, with the EXIF orientation and the colour profile that it
carries: it is turned upright and converted to sRGB, its transparent pixels become white, its
palette is applied, and its 16-bit samples become 8-bit ones. Modes without an agreed range (I, F)
are refused.

A list, a tuple, or an array with one more dimension in front is a batch of images.

NumPy is all that is imported here. Other libraries are used where an object comes from them.
"""

import io
import os
import struct
import zlib
from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from channeltok.errors import InvalidInput

Pixels: TypeAlias = NDArray[np.uint8]
"""uint8 [H, W, 3], C order: red, green, blue in sRGB."""

ALLOWED = (
    "pass the bytes of a JPEG, PNG or WebP file, its path, a binary file object, a PIL image, or "
    "an array or tensor [H, W, 3] of uint8 or of floats from 0 to 1"
)
_FLOATS = ("float16", "float32", "float64")
_ORIENTATION = 0x0112  # of EXIF
# Modes that PNG lacks, and those with the same pixels that it has.
_PNG_MODES = {"RGBX": "RGB", "YCbCr": "RGB", "HSV": "RGB", "CMYK": "RGB", "PA": "RGBA"} | {
    "RGBa": "RGBA",
    "La": "LA",
}
_NO_RANGE = ("I", "F")
_MAX_NAME = 200  # characters of a path in a message


class BinaryFile(Protocol):
    """A file object that was opened for reading bytes."""

    def read(self) -> bytes: ...


class PillowImage(Protocol):
    """PIL.Image.Image."""

    @property
    def mode(self) -> str: ...

    def getexif(self) -> Any: ...


class Array(Protocol):
    """An array of NumPy, JAX, PyTorch or another library."""

    def __array__(self, *args: Any, **kwargs: Any) -> Any: ...


ImageLike: TypeAlias = (
    bytes | bytearray | memoryview | str | os.PathLike[str] | BinaryFile | PillowImage | Array
)


class DecodedImage(bytes):
    """The bytes of an image file, and the same image as an object of other libraries.

    Each method decodes it anew, with Pillow: `pip install pillow`.
    """

    __slots__ = ()

    def as_pil(self) -> Any:
        """PIL.Image.Image, mode RGB. Raises ImportError without Pillow."""
        from PIL import Image

        return Image.open(io.BytesIO(self)).convert("RGB")

    def as_numpy(self) -> Pixels:
        """uint8 [H, W, 3]. Raises ImportError without Pillow."""
        return np.array(self.as_pil())

    def as_tensor(self) -> Any:
        """torch.Tensor, float32 [3, H, W] from 0 to 1, as torchvision's `to_tensor` makes it.

        Raises ImportError without PyTorch and Pillow.
        """
        import torch

        return torch.from_numpy(self.as_numpy()).permute(2, 0, 1).contiguous().float() / 255


def images_of(batch: Any) -> Sequence[Any] | None:
    """The images in a list, a tuple or an array [N, ...]; None for a single image."""
    if isinstance(batch, (list, tuple)):
        return batch
    return list(batch) if getattr(batch, "ndim", None) == 4 else None


def read_image(image: ImageLike) -> bytes | Pixels:
    """The bytes of an image file, unchecked, or the pixels, uint8 [H, W, 3].

    Raises InvalidInput (BAD_IMAGE): it is of another type, shape, dtype or range, or its file
    cannot be read.
    """
    if isinstance(image, (bytes, bytearray, memoryview)):
        return bytes(image)
    if isinstance(image, (str, os.PathLike)):
        return _read_path(image)
    if _comes_from("PIL", image):
        return _read_pillow(image)
    if hasattr(image, "__array__") or hasattr(image, "__dlpack__"):
        return _read_array(image)
    if hasattr(image, "read"):
        return _read_file(image)
    raise _bad_image(f"a {_name(image)} is no image: {ALLOWED}")


def encode_png(pixels: Pixels) -> bytes:
    """A PNG of pixels. The fastest compression; each row as differences to the left."""
    height, width, _ = pixels.shape
    rows = np.empty((height, 1 + 3 * width), np.uint8)
    rows[:, 0] = 1  # the filter Sub
    flat = pixels.reshape(height, 3 * width)
    rows[:, 1:4] = flat[:, :3]
    np.subtract(flat[:, 3:], flat[:, :-3], out=rows[:, 4:])
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.data, 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def _read_path(path: str | os.PathLike[str]) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except (OSError, ValueError) as error:  # ValueError: it holds a null character
        why = getattr(error, "strerror", None) or str(error)
        raise _bad_image(f"{os.fspath(path)[:_MAX_NAME]!r} cannot be read: {why}") from error


def _read_file(file: Any) -> bytes:
    try:
        data = file.read()
    except (OSError, ValueError) as error:  # ValueError: it is closed, or holds other text
        raise _bad_image(f"the file object cannot be read: {error}") from error
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise _bad_image(
            f"the file object reads {_name(data)}: open it for reading bytes, as open(path, 'rb')"
        )
    return bytes(data)


def _read_pillow(image: Any) -> bytes | Pixels:
    if not hasattr(image, "getexif"):
        raise _bad_image(f"a {_name(image)} is no image: {ALLOWED}")
    if image.mode in _NO_RANGE:
        raise _bad_image(
            f"a PIL image of mode {image.mode} has no range that all agree on: convert it to RGB"
        )
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
        if image.mode in ("RGB", "L") and orientation == 1 and not _changes_meaning(image.info):
            pixels = np.asarray(image)
            return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
        return _pillow_png(image, orientation)
    except (OSError, ValueError, EOFError, SyntaxError) as error:  # Pillow's, of damaged files
        raise _bad_image(f"the PIL image of mode {image.mode} cannot be read: {error}") from error


def _changes_meaning(info: dict[Any, Any]) -> bool:
    return bool(info.get("icc_profile")) or info.get("transparency") is not None


def _pillow_png(image: Any, orientation: int) -> bytes:
    from PIL import Image

    exif = Image.Exif()
    exif[_ORIENTATION] = orientation
    file = io.BytesIO()
    converted = image.convert(_PNG_MODES[image.mode]) if image.mode in _PNG_MODES else image
    converted.save(file, "PNG", compress_level=1, exif=exif)
    return file.getvalue()


def _read_array(image: Any) -> Pixels:
    try:
        if _comes_from("torch", image):
            image = image.detach().cpu()
        array = np.asarray(image) if hasattr(image, "__array__") else np.from_dlpack(image)
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        raise _bad_image(f"the {_name(image)} cannot be read as an array: {error}") from error
    return _to_levels(_channels_last(array, image))


def _channels_last(array: NDArray[Any], image: Any) -> NDArray[Any]:
    last = array.ndim == 3 and array.shape[-1] == 3
    first = array.ndim == 3 and array.shape[0] == 3 and _comes_from("torch", image)
    if last and first:
        raise _bad_image(
            f"it is not clear which side of {list(array.shape)} has the channels: add pixels to "
            "the side that has not"
        )
    if not (last or first) or 0 in array.shape:
        also = ", or [3, H, W]" if _comes_from("torch", image) else ""
        raise _bad_image(
            f"a {_name(image)} of shape {list(array.shape)} is no image: it has the shape "
            f"[H, W, 3]{also}, or in a batch [N, H, W, 3]"
        )
    return array if last else np.moveaxis(array, 0, -1)


def _to_levels(array: NDArray[Any]) -> Pixels:
    """uint8 of uint8, or of floats from 0 to 1."""
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype.name not in _FLOATS:
        raise _bad_image(
            f"an array of {array.dtype.name} is no image: it is of uint8, or of floats from 0 to 1 "
            f"({', '.join(_FLOATS)})"
        )
    low, high = float(array.min()), float(array.max())
    if not 0 <= low <= high <= 1:  # so is NaN
        raise _bad_image(f"an array of floats has values from 0 to 1, not from {low:g} to {high:g}")
    levels: Pixels = np.rint(array.astype(np.float32) * 255).astype(np.uint8, order="C")
    return levels


def _comes_from(library: str, value: object) -> bool:
    """Whether the type of `value`, or one that it extends, is of this library."""
    return any(kind.__module__.partition(".")[0] == library for kind in type(value).__mro__)


def _name(value: object) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _bad_image(message: str) -> InvalidInput:
    return InvalidInput("BAD_IMAGE", message)

"""channeltok.images: every form becomes the file, or the pixels of the PNG of the same image."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from channeltok import InvalidInput
from channeltok.images import DecodedImage, encode_png, images_of, read_image
from numpy.typing import NDArray
from PIL import Image, ImageCms

import imaging

PHOTO = Path("docs/images/cat.jpg")
SIZE = 64


def some_pixels(height: int = 40, width: int = 50) -> NDArray[np.uint8]:
    return np.random.default_rng(7).integers(0, 256, (height, width, 3), dtype=np.uint8)


class OnlyArray:
    """An array of a library that is not installed here, such as JAX."""

    def __init__(self, array: NDArray[Any]) -> None:
        self._array = array
        self.ndim = array.ndim

    def __array__(self, *_: object, **__: object) -> NDArray[Any]:
        return self._array


class OnlyDlpack:
    def __init__(self, array: NDArray[Any]) -> None:
        self._array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._array.__dlpack_device__()


def as_file(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def seen(image: bytes | NDArray[np.uint8], fit: imaging.Fit = "crop") -> NDArray[np.uint8]:
    """What a tokenizer sees of what `read_image` returns."""
    return imaging.prepare(image if isinstance(image, bytes) else encode_png(image), SIZE, fit=fit)


def test_read_image_takes_files_in_every_form(tmp_path: Path) -> None:
    data = PHOTO.read_bytes()
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    forms = [data, bytearray(data), memoryview(data), str(path), path, io.BytesIO(data)]
    for form in forms:
        read = read_image(form)
        assert type(read) is bytes
        assert read == data
    with path.open("rb") as file:
        assert read_image(file) == data


@pytest.mark.parametrize(
    "form",
    [
        lambda pixels: pixels,
        lambda pixels: np.asfortranarray(pixels),
        lambda pixels: pixels.astype(np.float64) / 255,
        lambda pixels: (pixels / 255).astype(np.float32),
        lambda pixels: (pixels / 255).astype(np.float16),
        OnlyArray,
        OnlyDlpack,
        Image.fromarray,
    ],
)
def test_read_image_returns_the_pixels_of_arrays_and_pil_images(form: Any) -> None:
    pixels = some_pixels()
    read = read_image(form(pixels))
    assert isinstance(read, np.ndarray)
    assert read.dtype == np.uint8
    assert read.flags.c_contiguous
    np.testing.assert_array_equal(read, pixels)


def test_read_image_returns_the_pixels_of_tensors() -> None:
    torch = pytest.importorskip("torch")
    pixels = some_pixels()
    tensor = torch.from_numpy(pixels)
    channels_first = tensor.permute(2, 0, 1)
    for form in (
        tensor,
        channels_first,
        (channels_first / 255).requires_grad_(),
        (tensor / 255).half(),
    ):
        np.testing.assert_array_equal(read_image(form), pixels)
    for form, message in (
        (torch.zeros(3, 8, 3), r"not clear which side of \[3, 8, 3\]"),
        (torch.zeros(8, 9), r"torch.Tensor of shape \[8, 9\] .* or \[3, H, W\]"),
        (torch.zeros(8, 9, 3, dtype=torch.bfloat16), "torch.Tensor cannot be read as an array"),
    ):
        with pytest.raises(InvalidInput, match=message):
            read_image(form)


def test_read_image_takes_a_jax_array() -> None:
    jax = pytest.importorskip("jax")
    pixels = some_pixels()
    np.testing.assert_array_equal(read_image(jax.numpy.asarray(pixels)), pixels)
    np.testing.assert_array_equal(read_image(jax.numpy.asarray(pixels) / 255), pixels)


def pil_images() -> dict[str, Image.Image]:
    photo = Image.open(PHOTO).convert("RGB").resize((130, 90))
    alpha = Image.linear_gradient("L").resize(photo.size)
    transparent = photo.copy()
    transparent.putalpha(alpha)
    palette = photo.quantize(64)
    palette.info["transparency"] = 3
    coloured = photo.copy()
    coloured.info["transparency"] = photo.getpixel((5, 5))
    profiled = photo.copy()
    profile = ImageCms.createProfile("LAB")
    profiled.info["icc_profile"] = ImageCms.ImageCmsProfile(profile).tobytes()
    grey = photo.convert("L")
    wide = Image.fromarray(np.asarray(grey).astype(np.uint16) * 256 + 99)
    assert wide.mode == "I;16"
    return {
        "RGB": photo,
        "L": grey,
        "LA": transparent.convert("LA"),
        "RGBA": transparent,
        "P": photo.quantize(64),
        "P with transparency": palette,
        "RGB with transparency": coloured,
        "RGB with profile": profiled,
        "1": photo.convert("1"),
        "I;16": wide,
    }


@pytest.mark.parametrize("kind", pil_images())
@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("fit", imaging.FITS)
def test_read_image_means_the_png_of_a_pil_image(
    kind: str, orientation: int, fit: imaging.Fit
) -> None:
    image = pil_images()[kind]
    image.getexif()[0x0112] = orientation
    png = as_file(image, exif=image.getexif())
    np.testing.assert_array_equal(seen(read_image(image), fit), seen(png, fit))


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "HSV", "RGBX", "PA", "RGBa", "La"])
def test_read_image_converts_modes_that_png_lacks(mode: str) -> None:
    photo = Image.open(PHOTO).convert("RGB")
    image = photo.convert({"PA": "P", "RGBa": "RGBA", "La": "LA"}.get(mode, "RGB")).convert(mode)
    expected = image.convert("RGBA" if mode in ("RGBa", "PA") else "LA" if mode == "La" else "RGB")
    np.testing.assert_array_equal(seen(read_image(image)), seen(as_file(expected)))


def test_read_image_turns_a_pil_image_as_its_file() -> None:
    photo = Image.open(PHOTO).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 8
    png = as_file(photo, exif=exif)
    np.testing.assert_array_equal(seen(read_image(Image.open(io.BytesIO(png)))), seen(png))
    webp = as_file(photo, "WEBP", lossless=True, exif=exif)
    np.testing.assert_array_equal(seen(read_image(Image.open(io.BytesIO(webp)))), seen(webp))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (7, "a int is no image: pass the bytes of a JPEG"),
        (None, "a NoneType is no image"),
        ({"image": b"x"}, "a dict is no image"),
        (iter([b"x"]), "is no image"),
        (object(), "a object is no image"),
        ("no/such/cat.jpg", "'no/such/cat.jpg' cannot be read: No such file"),
        (Path("docs"), "'docs' cannot be read: Is a directory"),
        ("null\0character", "cannot be read"),
        ("x" * 10_000, "cannot be read: File name too long"),
        (io.StringIO("text"), "reads str: open it for reading bytes"),
        (some_pixels()[..., 0], r"numpy.ndarray of shape \[40, 50\] is no image"),
        (some_pixels()[..., :1], r"of shape \[40, 50, 1\] is no image"),
        (np.zeros((3, 40, 50), np.uint8), r"of shape \[3, 40, 50\] .* \[H, W, 3\], or in a batch"),
        (np.zeros((0, 50, 3), np.uint8), r"of shape \[0, 50, 3\]"),
        (np.zeros((2, 40, 50, 3), np.uint8), r"\[2, 40, 50, 3\]"),
        (np.uint8(3), r"of shape \[\]"),
        (some_pixels().astype(np.int64), "an array of int64 is no image"),
        (some_pixels() > 9, "an array of bool is no image"),
        (some_pixels() / 254, r"from 0 to 1, not from 0 to 1\.00394"),
        (some_pixels() / 255 - 0.5, r"not from -0\.5 to 0\.5"),
        (np.full((4, 4, 3), np.nan), "not from nan to nan"),
        (np.array([[["a"] * 3]]), "an array of str"),
        (Image.new("F", (8, 8)), "mode F has no range"),
        (Image.new("I", (8, 8)), "mode I has no range"),
        (Image.new("LAB", (8, 8)), "mode LAB cannot be read"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_read_image_refuses_other_things_and_says_what_they_are(image: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        read_image(image)
    assert caught.value.code == "BAD_IMAGE"
    assert len(caught.value.message) < 500


def test_read_image_refuses_closed_files_and_images(tmp_path: Path) -> None:
    file = io.BytesIO(b"x")
    file.close()
    image = Image.new("RGB", (8, 8))
    image.close()
    damaged = Image.open(io.BytesIO(as_file(Image.open(PHOTO))[:-5000]))
    for closed in (file, image, damaged):
        with pytest.raises(InvalidInput, match="cannot be read"):
            read_image(closed)


def test_images_of_finds_the_images_of_a_batch() -> None:
    pixels = np.stack([some_pixels(), some_pixels() // 2])
    assert images_of([b"a", "b"]) == [b"a", "b"]
    assert images_of(()) == ()
    images = images_of(pixels)
    assert images is not None
    np.testing.assert_array_equal(images, pixels)
    for single in (b"a", "a", pixels[0], Image.fromarray(pixels[0])):
        assert images_of(single) is None


def test_images_of_finds_the_images_of_a_batch_of_tensors() -> None:
    torch = pytest.importorskip("torch")
    pixels = np.stack([some_pixels(), some_pixels() // 2])
    tensor = torch.from_numpy(pixels)
    for batch in (tensor, tensor.permute(0, 3, 1, 2)):
        images = images_of(batch)
        assert images is not None
        np.testing.assert_array_equal([read_image(image) for image in images], pixels)
    assert images_of(tensor[0]) is None


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (40, 50)])
def test_encode_png_keeps_every_pixel(shape: tuple[int, int]) -> None:
    pixels = some_pixels(*shape)
    file = encode_png(pixels)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(file))), pixels)
    np.testing.assert_array_equal(np.asarray(imaging.decode(file)), pixels)


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_decoded_image_opens_in_every_form(format: str) -> None:
    pixels = some_pixels()
    data = as_file(Image.fromarray(pixels), format, lossless=True)
    image = DecodedImage(data)
    assert image == data
    assert isinstance(image, bytes)
    assert image.as_pil().mode == "RGB"
    np.testing.assert_array_equal(image.as_pil(), pixels)
    np.testing.assert_array_equal(image.as_numpy(), pixels)
    image.as_numpy()[:] = 0  # it is the caller's own


def test_decoded_image_opens_as_a_tensor() -> None:
    torch = pytest.importorskip("torch")
    pixels = some_pixels()
    image = DecodedImage(as_file(Image.fromarray(pixels)))
    tensor = image.as_tensor()
    assert (tensor.dtype, tensor.shape) == (torch.float32, (3, 40, 50))
    np.testing.assert_array_equal(read_image(tensor), pixels)


def test_importing_channeltok_imports_no_library_of_images() -> None:
    code = (
        "import sys, channeltok; "
        "print(*{'PIL', 'torch', 'jax'} & {name.partition('.')[0] for name in sys.modules})"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []

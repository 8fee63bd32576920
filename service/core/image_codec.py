"""Image files to pixels and back, on a pool of threads where that takes long."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

import imaging
from service.errors import BadImage, ServiceError, TooManyPixels, UnsupportedFormat

T = TypeVar("T")
SERVICE_ERRORS: dict[type[imaging.BadImage], type[ServiceError]] = {
    imaging.BadImage: BadImage,
    imaging.TooManyPixels: TooManyPixels,
    imaging.UnsupportedFormat: UnsupportedFormat,
}


class ImageCodec:
    """Reads and writes JPEG, PNG and WebP. Shared by all calls of a process."""

    def __init__(self, threads: int, max_pixels: int) -> None:
        self._max_pixels = max_pixels
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="images")

    async def prepare(
        self, image: bytes, size: int, fit: imaging.Fit = "crop"
    ) -> tuple[NDArray[np.uint8], imaging.View]:
        """An image file to the square an encoder takes, uint8 [size, size, 3], and what it shows.

        Raises TooManyPixels, UnsupportedFormat, BadImage.
        """
        # Small images are decoded here: handing one to a thread costs 0.2 to 0.3 ms of a core.
        if open_image(image, self._max_pixels).quick:
            return read_image(image, size, self._max_pixels, fit)
        return await self.run_in_thread(read_image, image, size, self._max_pixels, fit)

    async def encode(self, pixels: NDArray[np.uint8], format: str) -> bytes:
        """Pixels, uint8 [H, W, 3], to a file of `format` ("JPEG", "PNG" or "WEBP")."""
        if imaging.is_quick_to_encode(pixels, format):
            return imaging.encode_image(pixels, format)
        return await self.run_in_thread(imaging.encode_image, pixels, format)

    async def run_in_thread(self, work: Callable[..., T], *args: Any) -> T:
        """Run `work(*args)` on the pool."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *args)


def read_image(
    image: bytes, size: int, max_pixels: int, fit: imaging.Fit = "crop"
) -> tuple[NDArray[np.uint8], imaging.View]:
    """See `ImageCodec.prepare`."""
    try:
        file = open_image(image, max_pixels)
        return file.pixels(size, fit), file.view(fit)
    except imaging.BadImage as error:
        raise SERVICE_ERRORS[type(error)](str(error)) from error


def open_image(image: bytes, max_pixels: int) -> imaging.ImageFile:
    """`imaging.open_image`, with the errors of the service."""
    try:
        return imaging.open_image(image, max_pixels)
    except imaging.BadImage as error:
        raise SERVICE_ERRORS[type(error)](str(error)) from error

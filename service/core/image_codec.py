"""Image files to pixels and back: in worker processes, on threads, or here where that is quick."""

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

import imaging
from service.core.admission import Admission
from service.core.image_pool import HEAVY, LANES, LIGHT, ImagePool
from service.errors import BadImage, ServiceError, TooManyPixels, UnsupportedFormat
from service.observability import metrics

T = TypeVar("T")
SERVICE_ERRORS: dict[type[imaging.BadImage], type[ServiceError]] = {
    imaging.BadImage: BadImage,
    imaging.TooManyPixels: TooManyPixels,
    imaging.UnsupportedFormat: UnsupportedFormat,
}
# Of heavy images: the longest expected wait for a worker, and how many may wait for each. Sixteen
# callers who send photos of a second each, one after the other, are not refused.
HEAVY_QUEUE_SECONDS = 10.0
HEAVY_QUEUE_SIZE = 16


class ImageCodec:
    """Reads and writes JPEG, PNG and WebP, and reads pixels. Shared by all calls of a process.

    heavy: admission of heavy images; a caller holds its permit while the image is decoded.
    """

    def __init__(self, workers: int, max_pixels: int) -> None:
        """workers: processes for light images, for heavy ones, and threads that write."""
        self._max_pixels = max_pixels
        self._pool = ImagePool(workers)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="images")
        self.heavy = Admission(
            lambda _: workers,
            HEAVY_QUEUE_SIZE * workers,
            HEAVY_QUEUE_SECONDS,
            "large images",
            metrics.IMAGE_WORKERS.labels(HEAVY.name),
            lambda _: metrics.IMAGE_DECODES_WAITING.labels(HEAVY.name),
        )
        for lane in LANES:
            metrics.IMAGE_WORKERS.labels(lane.name).set(workers)

    async def start(self) -> None:
        """Start the worker processes; `ready` waits for them."""
        await self._pool.start()

    async def ready(self) -> None:
        """Raises CannotStart if the worker processes do not start."""
        await self._pool.ready()

    async def stop(self) -> None:
        """Kill the worker processes. What they decode fails with Stopping."""
        await self._pool.stop()

    def open(self, data: bytes | imaging.Pixels) -> imaging.ImageFile:
        """Read what a file, or pixels, say of themselves; nothing is decoded.

        Raises TooManyPixels, UnsupportedFormat, BadImage.
        """
        try:
            return imaging.open_image(data, self._max_pixels)
        except imaging.BadImage as error:
            raise _service_error(error) from error

    async def pixels(
        self, image: imaging.ImageFile, size: int, fit: imaging.Fit = "crop"
    ) -> NDArray[np.uint8]:
        """Decode to uint8 [size, size, 3]; cancelling kills the decoding.

        Raises BadImage, EngineUnavailable.
        """
        if not image.quick:
            return await self._pool.pixels(HEAVY if image.heavy else LIGHT, image, size, fit)
        try:
            return image.pixels(size, fit)
        except imaging.BadImage as error:
            raise _service_error(error) from error

    async def encode(self, pixels: NDArray[np.uint8], format: str) -> bytes:
        """Pixels, uint8 [H, W, 3], to a file of `format` ("JPEG", "PNG" or "WEBP")."""
        if imaging.is_quick_to_encode(pixels, format):
            return imaging.encode_image(pixels, format)
        return await self.run_in_thread(imaging.encode_image, pixels, format)

    async def encode_all(self, images: Iterable[NDArray[np.uint8]], format: str) -> list[bytes]:
        """Encode several images on threads: together they would hold up the event loop."""
        return await asyncio.gather(
            *(self.run_in_thread(imaging.encode_image, pixels, format) for pixels in images)
        )

    async def run_in_thread(self, work: Callable[..., T], *args: Any) -> T:
        """Run `work(*args)` on the pool of threads: for our own pixels, whose work is bounded."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *args)


def read_image(
    image: bytes | imaging.Pixels, size: int, max_pixels: int, fit: imaging.Fit = "crop"
) -> tuple[NDArray[np.uint8], imaging.View]:
    """Decode to uint8 [size, size, 3] in this process, and what that shows: for engines in process.

    Raises TooManyPixels, UnsupportedFormat, BadImage.
    """
    try:
        file = imaging.open_image(image, max_pixels)
        return file.pixels(size, fit), file.view(fit)
    except imaging.BadImage as error:
        raise _service_error(error) from error


def _service_error(error: imaging.BadImage) -> ServiceError:
    return SERVICE_ERRORS[type(error)](str(error))

"""In-memory training set: photos decoded once, kept on the device, augmented in batches there.

A GPU that trains on thousands of photos per second would wait for any loader. Here, cropping and
resizing a batch is two matrix products.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import webdataset as wds
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

import imaging
from tokenizer.training.data import MAX_STRETCH, shards
from tokenizer.training.readable_photos import ReadablePhotos, name_and_photo

# Largest size of a kept photo in pixels; of a photo longer than 3:2 the middle is kept.
SHORT_SIDE, LONG_SIDE = 176, 264


class PhotosInMemory:
    """Photos as uint8 [N, 3, 176, 264] on a device: 0.14 MB each.

    Portraits are stored transposed. Smaller photos are padded.
    """

    def __init__(self, photos: list[NDArray[np.uint8]], device: torch.device) -> None:
        """photos: uint8 [H, W, 3] of any size. Raises ValueError when there are none."""
        if not photos:
            raise ValueError("there are no photos to train on")
        self.pixels = torch.zeros(len(photos), 3, SHORT_SIDE, LONG_SIDE, dtype=torch.uint8)
        self.heights, self.widths = torch.zeros(len(photos)), torch.zeros(len(photos))
        self.is_portrait = torch.tensor([photo.shape[0] > photo.shape[1] for photo in photos])
        for i, photo in enumerate(photos):
            kept = _fitted(photo.transpose(1, 0, 2) if self.is_portrait[i] else photo)
            height, width = kept.shape[:2]
            self.pixels[i, :, :height, :width] = torch.tensor(kept).permute(2, 0, 1)
            self.heights[i], self.widths[i] = height, width
        for name in ("pixels", "heights", "widths", "is_portrait"):
            setattr(self, name, getattr(self, name).to(device))

    def __len__(self) -> int:
        return len(self.pixels)

    @classmethod
    def from_shards(
        cls, pattern: str, device: torch.device, threads: int | None = None
    ) -> "PhotosInMemory":
        """Load all photos of the shards at `pattern`, see tokenizer.training.data.shards.

        Photos that cannot be read are skipped, see ReadablePhotos. Raises FileNotFoundError when
        there are no shards.
        """
        samples = wds.WebDataset(shards(pattern), shardshuffle=False, nodesplitter=None)
        # Threads suffice: decoders release the GIL.
        with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
            readable = ReadablePhotos(lambda data: np.asarray(imaging.decode(data)))
            photos = readable.read_all(map(name_and_photo, samples), pool.map)
            return cls([photo for _, photo in photos], device)

    def batches(
        self,
        size: int,
        batch: int,
        seed: int,
        *,
        min_area: float,
        colour: float,
        rank: int = 0,
        processes: int = 1,
    ) -> Iterator[Tensor]:
        """Endless batches float32 [batch, 3, size, size] in [-1, 1], channels last.

        Each epoch has a new order. min_area: the smallest share of a photo's area that a crop
        covers. colour: see `change_colours`. rank: which of `processes` parts of each epoch to
        yield. Raises ValueError when a part holds fewer photos than one batch.
        """
        if len(self) // processes < batch:
            raise ValueError(
                f"{len(self)} photos are fewer than one batch of {batch} for each of {processes} "
                "processes"
            )
        order = torch.Generator().manual_seed(seed)
        draw = torch.Generator(self.pixels.device).manual_seed(seed + 1_000_003 * rank)
        while True:
            epoch = torch.randperm(len(self), generator=order)[rank::processes]
            for chosen in epoch.split(batch):
                if len(chosen) == batch:
                    yield self._batch(chosen.to(self.pixels.device), size, min_area, colour, draw)

    def _batch(
        self, chosen: Tensor, size: int, min_area: float, colour: float, draw: torch.Generator
    ) -> Tensor:
        heights, widths, is_portrait = (
            self.heights[chosen],
            self.widths[chosen],
            self.is_portrait[chosen],
        )
        u = torch.rand(6, len(chosen), generator=draw, device=chosen.device)
        area = heights * widths * (min_area + (1 - min_area) * u[0])
        ratio = MAX_STRETCH ** (2 * u[1] - 1)
        w, h = (
            torch.minimum(widths, (area * ratio).sqrt()),
            torch.minimum(heights, (area / ratio).sqrt()),
        )
        rows = resampling((heights - h) * u[2], h, heights, SHORT_SIDE, size)
        columns = resampling((widths - w) * u[3], w, widths, LONG_SIDE, size)
        pixels = self.pixels[chosen].float() / 127.5 - 1
        crops = rows[:, None] @ pixels @ columns[:, None].transpose(2, 3)
        crops = torch.where(is_portrait[:, None, None, None], crops.transpose(2, 3), crops)
        crops = torch.where((u[4] < 0.5)[:, None, None, None], crops.flip(3), crops)
        if colour:
            crops = change_colours(crops, colour, draw)
        return crops.clamp(-1, 1).contiguous(memory_format=torch.channels_last)


def resampling(start: Tensor, length: Tensor, limit: Tensor, side: int, size: int) -> Tensor:
    """Resampling matrices float [B, size, side] that resize a part of a line of pixels.

    They map the pixels `start` to `start + length` of a line of `side` to `size` pixels. Bicubic
    (a = -0.5) with antialiasing, as in Pillow: the kernel widens with the step, pixels from `limit`
    on are ignored, and weights sum to 1. start, length, limit: float [B], in pixels.
    """
    step = (length / size)[:, None, None]
    reach = step.clamp(min=1)
    centre = start[:, None, None] + (torch.arange(size, device=start.device)[:, None] + 0.5) * step
    at = torch.arange(side, device=start.device) + 0.5
    x = ((at - centre) / reach).abs()
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = torch.where(x < 1, near, torch.where(x < 2, far, 0.0)) * (at < limit[:, None, None])
    return weights / weights.sum(2, keepdim=True)


def change_colours(pixels: Tensor, strength: float, draw: torch.Generator) -> Tensor:
    """Colour jitter of photos float [B, 3, H, W], drawn per photo.

    Contrast and saturation change by a factor of up to 1 +- strength, brightness by up to
    +- strength / 2.
    """
    u = (
        2 * torch.rand(3, len(pixels), 1, 1, 1, generator=draw, device=pixels.device) - 1
    ) * strength
    grey = pixels.mean(1, keepdim=True)
    pixels = grey + (pixels - grey) * (1 + u[0])
    mean = grey.mean((2, 3), keepdim=True)
    return mean + (pixels - mean) * (1 + u[1]) + 0.5 * u[2]


def _fitted(photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Fit a landscape photo: crop the middle if longer than 3:2, and shrink it if too large."""
    height, width = photo.shape[:2]
    kept = min(width, height * LONG_SIDE / SHORT_SIDE)
    if height <= SHORT_SIDE and kept == width:
        return photo
    scale = min(1.0, SHORT_SIDE / height)
    left = (width - kept) / 2
    size = (min(LONG_SIDE, round(kept * scale)), round(height * scale))
    return np.asarray(
        Image.fromarray(photo).resize(
            size, Image.Resampling.BICUBIC, box=(left, 0, left + kept, height)
        )
    )

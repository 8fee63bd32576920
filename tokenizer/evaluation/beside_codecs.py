"""Command `python -m tokenizer.evaluation.beside_codecs`: figure of a tokenizer and codecs.

Each image is as large as its neighbours in the column: 64, 128, 256 and 512 bytes.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tokenizer import inference
from tokenizer.evaluation import codecs, image_grid
from tokenizer.evaluation.fidelity import Images, ssim
from tokenizer.models.base import Tokenizer

SIZES = (64, 128, 256, 512)  # bytes
METHODS = ("WebP", "JPEG")
WHITE = 255
Cell = tuple[str, NDArray[np.uint8]]  # title, image uint8 [S, S, 3]


def main() -> None:
    """Draw for each photo a row of the tokenizer's images and one of each codec.

    A codec is at the quality and scale of its best SSIM. Where no file is small enough, the cell
    stays white and says so.
    """
    model, photos, output = image_grid.read_arguments("tokenizer.evaluation.beside_codecs", __doc__)
    sizes = [size for size in SIZES if _tokens_in(size, model) <= model.shape.channels]
    tokens = inference.encode(model, photos)
    by_size = [list(_tokenizer_cells(model, photos, tokens, size)) for size in sizes]
    rows: list[list[Cell]] = []
    for number, photo in enumerate(photos):
        rows.append([*(cells[number] for cells in by_size), ("original", photo)])
        rows += [[*_codec_cells(codec, photo, sizes), ("original", photo)] for codec in METHODS]
    columns = [
        image_grid.Column([title for title, _ in cells], np.stack([image for _, image in cells]))
        for cells in zip(*rows, strict=True)
    ]
    image_grid.draw(columns, output)


def _tokens_in(size: int, model: Tokenizer) -> int:
    """How many tokens `size` bytes hold."""
    return 8 * size // model.bits_per_token


def _tokenizer_cells(model: Tokenizer, photos: Images, tokens: Tensor, size: int) -> Iterator[Cell]:
    k = _tokens_in(size, model)
    images = inference.decode(model, tokens, k)
    for similarity, image in zip(ssim(photos, images), images, strict=True):
        yield f"{model.title}, {size} bytes\nk = {k}, SSIM {similarity:.2f}", image


def _codec_cells(codec: str, photo: NDArray[np.uint8], sizes: list[int]) -> Iterator[Cell]:
    for size, saved in codecs.candidates(photo, codec, tuple(sizes)).items():
        if not saved:
            yield f"{codec}\nnever under {size} bytes", np.full_like(photo, WHITE)
            continue
        similarities = ssim(photo[None], np.stack([file.image for file in saved]))
        best = int(similarities.argmax())
        title = f"{codec}, {saved[best].size} bytes\nSSIM {similarities[best]:.2f}"
        yield title, saved[best].image


if __name__ == "__main__":
    main()

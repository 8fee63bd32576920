"""Parity of tokenizer graphs: ONNX Runtime against PyTorch, token bits and pixels over photos."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from tokenizer import inference
from tokenizer.models.base import Tokenizer

BATCH = 16
# Summation order differs, so a latent within about 1e-6 of 0 may change sign: at most one bit in
# 100,000, or one in all.
MAX_FLIPPED_SHARE = 1e-5
# A pixel within about 1e-4 of x.5 may round to the neighbouring value.
MAX_PIXEL_DIFFERENCE = 1


@dataclass(frozen=True)
class Pixels:
    """Largest and mean difference between two decodes of the same tokens, in steps of 1/255."""

    budget: int
    largest: int
    mean: float


@dataclass(frozen=True)
class Parity:
    """Comparison over photos.

    bits: token bits compared, photos x C x bits per token. flipped: how many differ.
    bits_per_flip: see tokenizer.models.base; so many may always differ.
    """

    photos: int
    bits: int
    flipped: int
    decodes: tuple[Pixels, ...]
    bits_per_flip: int = 1

    @property
    def may_flip(self) -> int:
        """How many token bits may differ by rounding."""
        return max(self.bits_per_flip, int(MAX_FLIPPED_SHARE * self.bits))

    @property
    def out_of_bounds(self) -> list[str]:
        """A sentence for each bound that is broken; empty when the graphs may be served."""
        broken = [
            f"at k = {decode.budget} a pixel differs by {decode.largest}; "
            f"at most {MAX_PIXEL_DIFFERENCE} is rounding"
            for decode in self.decodes
            if decode.largest > MAX_PIXEL_DIFFERENCE
        ]
        if self.flipped > self.may_flip:
            broken.append(
                f"{self.flipped} of {self.bits:,} token bits differ; at most {self.may_flip} may"
            )
        return broken

    def figures(self) -> dict[str, float]:
        """Name -> number, for a JSON report."""
        figures: dict[str, float] = {
            "photos": self.photos,
            "bits": self.bits,
            "flipped_bits": self.flipped,
        }
        for decode in self.decodes:
            figures[f"k{decode.budget}_largest_pixel_difference"] = decode.largest
            figures[f"k{decode.budget}_mean_pixel_difference"] = decode.mean
        return figures

    def table(self) -> str:
        """The comparison as text."""
        rows = [
            ("PyTorch against ONNX Runtime", "", "allowed"),
            ("photos", f"{self.photos:,}", ""),
            ("token bits compared", f"{self.bits:,}", ""),
            ("token bits that differ", f"{self.flipped:,}", f"{self.may_flip}"),
        ]
        for decode in self.decodes:
            rows.append(
                (
                    f"largest pixel difference, k = {decode.budget}",
                    f"{decode.largest}",
                    f"{MAX_PIXEL_DIFFERENCE}",
                )
            )
            rows.append((f"mean pixel difference, k = {decode.budget}", f"{decode.mean:.1e}", ""))
        return "\n".join(f"{name:<36}{value:>12}{allowed:>10}" for name, value, allowed in rows)


def measure(
    model: Tokenizer, encode: bytes, decodes: dict[int, bytes], photos: NDArray[np.uint8]
) -> Parity:
    """Compare a model with its serialised graphs on photos uint8 [N, S, S, 3].

    decodes: by budget. Both sides decode PyTorch's tokens, so that a flipped bit does not count
    again in the pixels.
    """
    tokens = inference.encode(model, photos)
    flipped = int(np.unpackbits((tokens.numpy() ^ run(encode, photos)).view(np.uint8)).sum())
    pixels = []
    for budget, graph in sorted(decodes.items()):
        ours = inference.decode(model, tokens, budget)
        difference = np.abs(
            ours.astype(np.int16) - run(graph, tokens[:, :budget].contiguous().numpy())
        )
        pixels.append(Pixels(budget, int(difference.max()), float(difference.mean())))
    return Parity(
        len(photos),
        tokens.numel() * model.bits_per_token,
        flipped,
        tuple(pixels),
        model.bits_per_flip,
    )


def run(graph: bytes, array: NDArray[np.integer[Any]]) -> NDArray[np.integer[Any]]:
    """Run a serialised graph of one input and one output over `array`, in batches, on a CPU."""
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate(
        [session.run(None, {name: array[i : i + BATCH]})[0] for i in range(0, len(array), BATCH)]
    )

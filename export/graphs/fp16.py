"""fp16 convolutions for GPU graphs: TensorRT 11 takes every layer's precision from the graph.

Norms, SiLUs, the quantiser and the pixels at both ends stay fp32; attention and the residual stream
follow the convolutions around them. `python -m export.graphs.fp16 CHECKPOINT --data PHOTOS` prints
what each choice costs (docs/decisions/0010).
"""

import argparse
import copy
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from tokenizer import checkpoint, inference
from tokenizer.models.bsq import BITS
from tokenizer.training.data import evaluation_photos

LAST = -1


def convert_convolutions(part: nn.Module, keep: tuple[int, ...] = (LAST,)) -> None:
    """Convert the convolutions of an encoder or decoder to fp16, in place.

    keep: indices, in data order, of those that stay fp32. Inputs and outputs of `part` keep their
    type. Meant for export: PyTorch runs the result on a CPU, but slowly.
    """
    convolutions = [module for module in part.modules() if isinstance(module, nn.Conv2d)]
    for convolution in convolutions:
        convolution.register_forward_pre_hook(_cast_input)
    for convolution in set(convolutions) - {convolutions[i] for i in keep}:
        convolution.half()


def _cast_input(convolution: Any, inputs: tuple[Tensor]) -> tuple[Tensor]:
    return (inputs[0].to(convolution.weight.dtype),)


def main() -> None:
    """Print flipped bits and pixel differences against fp32, by which convolutions stay fp32."""
    parser = argparse.ArgumentParser(prog="python -m export.graphs.fp16", description=main.__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", required=True, help="photos to compare on")
    parser.add_argument("--photos", type=int, default=32)
    options = parser.parse_args()
    model = checkpoint.load(options.checkpoint)
    photos = evaluation_photos(options.data, model.shape.image_size, options.photos)
    tokens = inference.encode(model, photos)
    images = inference.decode(model, tokens, model.shape.channels).astype(np.int16)
    print(
        f"| fp32 | encode: bits flipped of {tokens.numel() * BITS:,} "
        "| decode: largest pixel difference | mean |\n|---|---|---|---|"
    )
    for name, keep in {
        "none": (),
        "the first": (0,),
        "the last": (LAST,),
        "both": (0, LAST),
    }.items():
        converted = copy.deepcopy(model)
        convert_convolutions(converted.encoder, keep)
        convert_convolutions(converted.decoder, keep)
        flips = np.unpackbits(
            (inference.encode(converted, photos) ^ tokens).numpy().view(np.uint8)
        ).sum()
        difference = np.abs(inference.decode(converted, tokens, model.shape.channels) - images)
        print(
            f"| {name} | {flips:,} ({flips / tokens.numel() / BITS:.4%}) "
            f"| {difference.max()} | {difference.mean():.4f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

"""`python -m export tokenizer CHECKPOINT`: a tokenizer's encode and decode graphs for the CPU,
into model_repository.
"""

import argparse
import copy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from export.commands import common
from export.graphs import fp16, graph, int8, parity
from export.graphs.random_model import random_model
from export.triton import repository, triton_config
from tokenizer import checkpoint, inference
from tokenizer.evaluation.fidelity import psnr
from tokenizer.models.base import Tokenizer
from tokenizer.models.registry import SIZES
from tokenizer.training.data import evaluation_photos

# Families whose decoder does less work for fewer tokens get a graph per budget. The others do the
# same work at every k: one graph for all k lets requests of different k share a batch. A tokenizer
# with narrow decoders always gets a graph for each of them.
FAMILY_BUDGETS = {"flextok": [16, 32, 64]}
DEMO = Path(__file__).parents[2] / "tokenizer/weights/demo.safetensors"


def add_parser(commands: Any) -> None:
    """Add this command to argparse's sub-parsers."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "tokenizer", help="a tokenizer for the CPU", description=__doc__
    )
    add_options(parser, checkpoint_required=True)
    parser.add_argument(
        "--int8",
        action="store_true",
        help="decode also in int8, for `python -m service --decode-precision int8`",
    )
    parser.set_defaults(run=run, engine=triton_config.PYTHON.name)


def add_options(parser: argparse.ArgumentParser, *, checkpoint_required: bool) -> None:
    """Add the options that the commands `tokenizer` and `gpu` share."""
    source = parser.add_mutually_exclusive_group(required=checkpoint_required)
    source.add_argument(
        "checkpoint",
        nargs="?",
        type=Path,
        help="safetensors of a training run, or a .ckpt or .safetensors with the paper's names",
    )
    source.add_argument(
        "--random",
        choices=SIZES,
        help="this size with random weights, to measure an engine's speed",
    )
    common.add_options(parser, "tokenizer")
    parser.add_argument(
        "--budgets",
        type=_numbers,
        help="a decode model for each of these numbers of tokens, such as 32,64,128; by default "
        "one for all k (FlexTok: 16,32,64)",
    )
    parser.add_argument(
        "--data",
        required=True,
        help="photos to compare on: a folder of images or .tar shards, one .tar, or a glob",
    )
    parser.add_argument(
        "--photos", type=int, default=200, help="how many of them, in shard order; 200"
    )


def run(options: argparse.Namespace) -> None:
    """Export, compare and write; exits with one sentence when any of these fails."""
    if options.repository is None:
        options.repository = Path(
            "build/model_repository" if options.random else "model_repository"
        )
    engine = triton_config.ENGINES[options.engine]
    repository.check_writable(options.repository)
    if options.random is not None:
        name, model = f"random_{options.random}", random_model(options.random)
    else:
        name = options.checkpoint.stem.lower()
        model = common.load_checkpoint(checkpoint.load, options.checkpoint, "tokenizer")
    name = common.check_name(options.name or name, "tokenizer")
    budgets = _budgets(options.budgets or FAMILY_BUDGETS.get(model.family), model, engine)
    photos, calibration = _photos(options, model)

    print(f"{name}, fingerprint {checkpoint.fingerprint(model)}", flush=True)
    encode, decodes = _graphs(model, name, budgets, engine)
    print(f"comparing with PyTorch on {len(photos)} photos", flush=True)
    # Random weights crowd the latents around 0, where rounding flips more bits: not enforced.
    common.check_parity(
        parity.measure(model, encode, decodes, photos), options, enforced=options.random is None
    )
    int8_decodes = _int8(model, decodes, photos, calibration) if options.int8 else []
    graphs = [encode, *decodes.values()]
    for written in repository.write(options.repository, name, graphs, engine, int8_decodes):
        common.print_written(options.repository / written)


def _photos(
    options: argparse.Namespace, model: Tokenizer
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Photos to compare on and, for int8, others to calibrate on; uint8 [N, S, S, 3] each."""
    try:
        photos = evaluation_photos(
            options.data,
            model.shape.image_size,
            options.photos + options.int8 * int8.CALIBRATION_PHOTOS,
        )
    except FileNotFoundError as error:
        sys.exit(f"no photos to compare with: {error}")
    photos, calibration = photos[: options.photos], photos[options.photos :]
    if options.int8:
        if not any(isinstance(layer, torch.nn.Conv2d) for layer in model.decoder.modules()):
            sys.exit(f"--int8 needs convolutions, and the decoder of {model.title} has none")
        if not len(calibration):
            sys.exit(
                f"--int8 calibrates on photos beyond the {len(photos)} to compare: "
                "pass more photos or a smaller --photos"
            )
    return photos, calibration


def _graphs(
    model: Tokenizer, name: str, budgets: list[int], engine: triton_config.Engine
) -> tuple[bytes, dict[int, bytes]]:
    """The serialised encode graph, and decode graphs by budget. Decode is fp16 for a GPU."""
    print("exporting encode", flush=True)
    encode = graph.encode_graph(model, name).SerializeToString()
    if engine is not triton_config.PYTHON:
        model = copy.deepcopy(model)
        for decoder in model.decoders:
            fp16.convert_convolutions(decoder)
    decodes = {}
    for budget in budgets:
        print(f"exporting decode, k = {budget}", flush=True)
        decodes[budget] = graph.decode_graph(model, name, budget).SerializeToString()
    return encode, decodes


def _int8(
    model: Tokenizer,
    decodes: dict[int, bytes],
    photos: NDArray[np.uint8],
    calibration: NDArray[np.uint8],
) -> list[bytes]:
    """Decode graphs in int8, calibrated on some photos and compared with fp32 on others."""
    calibration_tokens, tokens = (
        inference.encode(model, images).numpy() for images in (calibration, photos)
    )
    quantised = []
    for budget, decode in decodes.items():
        quantised.append(int8.quantise(decode, calibration_tokens[:, :budget]))
        prefix = np.ascontiguousarray(tokens[:, :budget])
        fp32_images, int8_images = (
            parity.run(model, prefix).astype(np.uint8) for model in (decode, quantised[-1])
        )
        mean_psnr = float(psnr(fp32_images, int8_images).mean())
        print(f"int8 against fp32, k = {budget}: {mean_psnr:.1f} dB", flush=True)
        if mean_psnr < int8.MIN_PSNR:
            sys.exit(
                f"at k = {budget} int8 reaches {mean_psnr:.1f} dB against fp32; "
                f"at least {int8.MIN_PSNR} dB is required"
            )
    return quantised


def _budgets(
    requested: list[int] | None, model: Tokenizer, engine: triton_config.Engine
) -> list[int]:
    channels = model.shape.channels
    budgets = sorted({*(requested or [channels]), *model.narrow_budgets})
    if engine is not triton_config.PYTHON:
        # One list serves tokenizers of 256 and of 512 channels, and all tokens can be decoded.
        budgets = sorted({budget for budget in budgets if budget < channels} | {channels})
    if not 1 <= budgets[0] <= budgets[-1] <= channels:
        sys.exit(
            f"a budget is between 1 and the {channels} channels of this tokenizer, not {budgets}"
        )
    return budgets


def _numbers(text: str) -> list[int]:
    try:
        return [int(budget) for budget in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list such as 32,64,128") from None

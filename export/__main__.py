"""From a checkpoint to what Triton serves, if the graphs do what the checkpoint does.

python -m export CHECKPOINT             into model_repository, for the CPU that the service runs on
python -m export engines [CHECKPOINT]   into build/gpu_repository, for a GPU: a graph for each budget, decode in fp16
python -m export generator CHECKPOINT   a generator of tokens, into model_repository (export.generator_command)
"""

import argparse
import copy
import json
import re
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from export import generator_command
from export.graphs import fp16, graph, int8, parity
from export.graphs.random_model import random_model
from export.triton import repository, triton_config
from tokenizer import checkpoint, inference
from tokenizer.evaluation.fidelity import psnr
from tokenizer.models.base import Tokenizer
from tokenizer.models.registry import SIZES
from tokenizer.training.data import evaluation_photos

# Of families whose decoder does less work for fewer tokens: a graph for each. The others do the same at every k, and one graph for all
# lets requests of different k share a batch.
FAMILY_BUDGETS = {"flextok": [16, 32, 64]}
DEMO = Path(__file__).parents[1] / "tokenizer/weights/demo.safetensors"


def main(arguments: list[str] | None = None) -> None:
    """Runs the command. Exits with 1 and a sentence when the checkpoint is none, or when the graphs disagree with it."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["generator"]:
        generator_command.main(arguments[1:])
        return
    options = _options(arguments)
    engine = triton_config.ENGINES[options.engine]
    repository.check_writable(options.repository)
    model = _model(options.checkpoint, options.random)
    name = _name(options)
    budgets = _budgets(
        options.budgets or FAMILY_BUDGETS.get(model.family), model.shape.channels, engine
    )
    try:
        found = evaluation_photos(
            options.data,
            model.shape.image_size,
            options.photos + options.int8 * int8.CALIBRATION_PHOTOS,
        )
    except FileNotFoundError as error:
        sys.exit(f"no photos to compare with: {error}")
    photos, calibration = found[: options.photos], found[options.photos :]
    if options.int8 and not any(
        isinstance(layer, torch.nn.Conv2d) for layer in model.decoder.modules()
    ):
        sys.exit(f"--int8 is for convolutions, and the decoder of {model.title} has none")
    if options.int8 and not len(calibration):
        sys.exit(
            f"--int8 needs other photos to calibrate on than the {len(photos)} to compare with: give more, or a smaller --photos"
        )

    print(f"{name}, fingerprint {checkpoint.fingerprint(model)}", flush=True)
    encode, decodes = _graphs(model, name, budgets, engine)
    print(f"comparing with PyTorch on {len(photos)} photos", flush=True)
    result = parity.measure(model, encode, decodes, photos)
    if options.report is not None:
        options.report.parent.mkdir(parents=True, exist_ok=True)
        options.report.write_text(json.dumps(result.figures(), indent=2) + "\n")
    print(result.table())
    # Random weights crowd the latents around 0, where rounding flips more bits: their figures are shown, not judged.
    if result.out_of_bounds and options.random is None:
        sys.exit(f"{options.repository} was left as it was: " + "; ".join(result.out_of_bounds))
    in_int8 = _int8(model, decodes, photos, calibration) if options.int8 else []
    for written in repository.write(
        options.repository, name, [encode, *decodes.values()], engine, in_int8
    ):
        folder = options.repository / written
        print(f"wrote {folder} ({(folder / '1/model.onnx').stat().st_size / 1e6:.1f} MB)")


def _graphs(
    model: Tokenizer, name: str, budgets: list[int], engine: triton_config.Engine
) -> tuple[bytes, dict[int, bytes]]:
    """Encode, and decode by budget, serialised. Decode is fp16 for a GPU."""
    print("exporting encode", flush=True)
    encode = graph.encode_graph(model, name).SerializeToString()
    if engine is not triton_config.PYTHON:
        model = copy.deepcopy(model)
        fp16.halve(model.decoder)
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
    """Decode in int8, calibrated on some photos and compared with fp32 on others."""
    to_calibrate, tokens = (inference.encode(model, some).numpy() for some in (calibration, photos))
    found = []
    for budget, decode in decodes.items():
        found.append(int8.quantise(decode, to_calibrate[:, :budget]))
        kept = np.ascontiguousarray(tokens[:, :budget])
        reached = float(
            psnr(*(parity.run(one, kept).astype(np.uint8) for one in (decode, found[-1]))).mean()
        )
        print(f"int8 against fp32, k = {budget}: {reached:.1f} dB", flush=True)
        if reached < int8.MIN_PSNR:
            sys.exit(
                f"at k = {budget} int8 reaches {reached:.1f} dB against fp32; {int8.MIN_PSNR} are asked"
            )
    return found


def _budgets(asked: list[int] | None, channels: int, engine: triton_config.Engine) -> list[int]:
    budgets = sorted(set(asked or [channels]))
    if (
        engine is not triton_config.PYTHON
    ):  # one list serves tokenizers of 256 and of 512 channels, and whatever was encoded can be decoded
        budgets = sorted({budget for budget in budgets if budget < channels} | {channels})
    if not 1 <= budgets[0] <= budgets[-1] <= channels:
        sys.exit(
            f"a budget is between 1 and the {channels} channels of this tokenizer, not {budgets}"
        )
    return budgets


def _name(options: argparse.Namespace) -> str:
    name: str = options.name or (
        f"random_{options.random}" if options.random else options.checkpoint.stem.lower()
    )
    if not re.fullmatch("[a-z0-9][a-z0-9_.-]*", name):
        sys.exit(f"{name!r} cannot name a tokenizer: use a-z, 0-9, '_', '.' and '-'")
    return name


def _model(path: Path | None, random: str | None) -> Tokenizer:
    if random is not None:
        return random_model(random)
    assert path is not None
    try:
        return checkpoint.load(path)
    except OSError as error:
        sys.exit(f"cannot read the checkpoint {path}: {error.strerror or error}")
    except (SafetensorError, ValueError, RuntimeError) as error:
        sys.exit(f"{path} is not a tokenizer's checkpoint: {str(error).splitlines()[0]}")


def _options(arguments: list[str]) -> argparse.Namespace:
    gpu = arguments[:1] == ["engines"]
    parser = argparse.ArgumentParser(
        prog="python -m export engines" if gpu else "python -m export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = parser.add_mutually_exclusive_group(required=not gpu)
    source.add_argument(
        "checkpoint",
        nargs="?",
        type=Path,
        help="safetensors of a training run, or a .ckpt or .safetensors with the paper's module names",
    )
    source.add_argument(
        "--random",
        choices=SIZES,
        help="no checkpoint: this size with random weights, to try an engine's speed",
    )
    parser.add_argument(
        "--name",
        help="the tokenizer's name, under which it is served; the checkpoint's file name, or random_SIZE",
    )
    parser.add_argument(
        "--repository",
        type=Path,
        help="folder to write; model_repository, or a folder in build/ for random weights or a GPU",
    )
    parser.add_argument(
        "--budgets",
        type=_numbers,
        help="a decode model for each of these numbers of tokens, 32,64,128; by default one that takes them all (FlexTok: 16,32,64)",
    )
    parser.add_argument(
        "--data",
        default="../shared/data/val",
        help="photos for the comparison: a folder of .tar shards, one .tar, or a glob",
    )
    parser.add_argument(
        "--photos", type=int, default=200, help="how many of them to compare, in shard order; 200"
    )
    parser.add_argument(
        "--report",
        type=Path,
        help="JSON file for the figures of the comparison; without it they are only printed",
    )
    if not gpu:
        parser.add_argument(
            "--int8",
            action="store_true",
            help="decode also in int8, for `python -m service --decode-precision int8`",
        )
    if gpu:
        parser.add_argument(
            "--engine",
            choices=sorted(set(triton_config.ENGINES) - {triton_config.PYTHON.name}),
            default="tensorrt",
        )
        parser.set_defaults(budgets=[32, 64, 128, 256, 512], int8=False)
    else:
        parser.set_defaults(engine=triton_config.PYTHON.name)
    options = parser.parse_args(arguments[gpu:])
    if gpu and options.random is None:
        options.checkpoint = options.checkpoint or DEMO
    options.repository = options.repository or Path(
        "build/gpu_repository"
        if gpu
        else "build/model_repository"
        if options.random
        else "model_repository"
    )
    return options


def _numbers(text: str) -> list[int]:
    try:
        return [int(budget) for budget in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list like 32,64,128") from None


if __name__ == "__main__":
    main()

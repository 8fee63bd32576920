"""From a checkpoint to what Triton serves, if the graphs do what the checkpoint does.

python -m export CHECKPOINT             into model_repository, for the CPU that the service runs on
python -m export engines [CHECKPOINT]   into build/gpu_repository, for a GPU: a graph for each budget, decode in fp16
"""

import argparse
import copy
import json
import re
import sys
from pathlib import Path

import torch
from safetensors import SafetensorError

from export import engines, graph, half, parity, repository
from tokenizer import checkpoint
from tokenizer.channeltok import SIZES, ChannelTok
from tokenizer.data import evaluation_photos

REPORT = Path("build/parity.json")
DEMO = Path(__file__).parents[1] / "tokenizer/weights/demo.safetensors"


def main(arguments: list[str] | None = None) -> None:
    """Runs the command. Exits with 1 and a sentence when the checkpoint is none, or when the graphs disagree with it."""
    options = _options(sys.argv[1:] if arguments is None else arguments)
    engine = engines.ENGINES[options.engine]
    on_gpu = engine is not engines.PYTHON
    model = _model(options.checkpoint, options.random)
    name = options.name or (f"random_{options.random}" if options.random else options.checkpoint.stem.lower())
    folder = options.repository
    if not re.fullmatch("[a-z0-9][a-z0-9_.-]*", name):
        sys.exit(f"{name!r} cannot name a tokenizer: use a-z, 0-9, '_', '.' and '-'")
    channels = model.shape.channels
    budgets = sorted(set(options.budgets or [channels]))
    if on_gpu:  # one list serves tokenizers of 256 and of 512 channels, and whatever was encoded can be decoded
        budgets = sorted({budget for budget in budgets if budget < channels} | {channels})
    if not 1 <= budgets[0] <= budgets[-1] <= channels:
        sys.exit(f"a budget is between 1 and the {channels} channels of this tokenizer, not {budgets}")
    try:
        photos = evaluation_photos(options.data, model.shape.picture_size, options.photos)
    except FileNotFoundError as error:
        sys.exit(f"no photos to compare with: {error}")

    print(f"{name}, fingerprint {checkpoint.fingerprint(model)}: exporting encode", flush=True)
    encode = graph.encode_graph(model, name).SerializeToString()
    to_decode = model
    if on_gpu:
        to_decode = copy.deepcopy(model)
        half.halve(to_decode.decoder)
    decodes = {}
    for budget in budgets:
        print(f"exporting decode, k = {budget}", flush=True)
        decodes[budget] = graph.decode_graph(to_decode, name, budget).SerializeToString()
    print(f"comparing with PyTorch on {len(photos)} photos", flush=True)
    result = parity.measure(model, encode, decodes, photos)
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps(result.figures(), indent=2) + "\n")
    # Random weights crowd the latents around 0, where rounding flips more bits: their figures are shown, not judged.
    broken = [] if options.random else result.out_of_bounds
    if not broken:
        for written in repository.write(folder, name, [encode, *decodes.values()], engine):
            size = (folder / written / "1/model.onnx").stat().st_size
            print(f"wrote {folder / written} ({size / 1e6:.1f} MB)")
    print(result.table())
    if broken:
        sys.exit(f"{folder} was left as it was: " + "; ".join(broken))


def _model(path: Path | None, random: str | None) -> ChannelTok:
    if random is not None:
        torch.manual_seed(0)
        return ChannelTok(SIZES[random]).half().float().eval()  # as a checkpoint would store and load it
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
        "checkpoint", nargs="?", type=Path, help="safetensors of a training run, or a .ckpt or .safetensors with the paper's module names"
    )
    source.add_argument("--random", choices=SIZES, help="no checkpoint: this size with random weights, to try an engine's speed")
    parser.add_argument("--name", help="the tokenizer's name, under which it is served; the checkpoint's file name, or random_SIZE")
    parser.add_argument(
        "--repository", type=Path, help="folder to write; model_repository, or a folder in build/ for random weights or a GPU"
    )
    parser.add_argument(
        "--budgets",
        type=_budgets,
        help="a decode model for each of these numbers of tokens, 32,64,128; by default one that takes them all",
    )
    parser.add_argument(
        "--data", default="../shared/data/val", help="photos for the comparison: a folder of .tar shards, one .tar, or a glob"
    )
    parser.add_argument("--photos", type=int, default=200, help="how many of them to compare, in shard order; 200")
    if gpu:
        parser.add_argument("--engine", choices=sorted(set(engines.ENGINES) - {engines.PYTHON.name}), default="tensorrt")
        parser.set_defaults(budgets=[32, 64, 128, 256, 512])
    else:
        parser.set_defaults(engine=engines.PYTHON.name)
    options = parser.parse_args(arguments[gpu:])
    if gpu and options.random is None:
        options.checkpoint = options.checkpoint or DEMO
    options.repository = options.repository or Path(
        "build/gpu_repository" if gpu else "build/model_repository" if options.random else "model_repository"
    )
    return options


def _budgets(text: str) -> list[int]:
    try:
        return [int(budget) for budget in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list like 32,64,128") from None


if __name__ == "__main__":
    main()

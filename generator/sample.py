"""Command `python -m generator.sample`: sample images of classes from a GPT, at growing k.

With --random: a sheet of images of random classes instead, all of one k.
"""

import argparse
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from generator import checkpoint
from generator.gpt import Gpt
from generator.output_head import Sampling, by_position, gumbel
from tokenizer import checkpoint as tokenizer_checkpoint
from tokenizer import inference
from tokenizer.evaluation.fidelity import Images
from tokenizer.evaluation.image_grid import Column, draw

# The service's defaults, see docs/generate.md.
TEMPERATURE, TOP_K = 0.85, 200
SHEET_SIDE = 8  # images in a row, and rows


@dataclass(frozen=True)
class Setting:
    """Arguments of `sample`, and of CAR's `generate`."""

    temperature: float = TEMPERATURE
    top_k: int = TOP_K
    top_p: float = 1.0
    guidance: float = 1.0
    final_temperature: float | None = None

    @classmethod
    def of(cls, options: argparse.Namespace) -> "Setting":
        """Those of `add_sampling_arguments`."""
        return cls(**{field.name: getattr(options, field.name) for field in fields(cls)})


@torch.inference_mode()
def sample(
    model: Gpt,
    labels: Sequence[int],
    seed: int,
    temperature: float = TEMPERATURE,
    top_k: int = TOP_K,
    top_p: float = 1.0,
    guidance: float = 1.0,
    final_temperature: float | None = None,
) -> Tensor:
    """Sample a sequence per class id (-1 = none): int32 [B, C]. Deterministic in its arguments.

    temperature: 0 = greedy. top_k: 0 = all. top_p: 1 = all. guidance: 1 = none; more takes a second
    row without the class for each sequence. final_temperature: of the last token, to which that of
    each goes linearly by position; None = the same. The service draws other noise: a seed gives
    another image there.
    """
    source, pairs = torch.Generator().manual_seed(seed), guidance != 1
    classes = torch.tensor([*labels, *([-1] * len(labels) if pairs else [])])
    batch = len(classes)
    cache = model.empty_cache(batch, room=model.shape.channels)
    sampling = Sampling.of(batch, temperature, top_k, top_p, guidance, pairs=pairs)
    temperatures = by_position(temperature, final_temperature, model.shape.channels)
    tokens = [torch.full((batch,), -1)]  # the position of the class
    for index in range(model.shape.channels):
        sampling = sampling._replace(temperature=temperatures[index].expand(batch))
        hidden, fresh = model.hidden(tokens[-1][:, None], classes, cache, index)
        for stored, new in zip(cache, fresh, strict=True):
            stored[:, :, index] = new[:, :, 0]
        noise = gumbel(source, len(labels), model.prediction.draws, model.prediction.values)
        noise = noise.repeat(batch // len(labels), 1, 1)
        tokens.append(model.prediction.sample(hidden[:, -1], sampling, noise)[0])
    return torch.stack(tokens[1:], dim=1)[: len(labels)]


def main() -> None:
    """Draw a row per class, or a sheet.

    Exits with a message for an unknown class or the wrong tokenizer.
    """
    parser = argparse.ArgumentParser(prog="python -m generator.sample", description=__doc__)
    parser.add_argument("weights", type=Path, help="safetensors of `python -m generator.train`")
    parser.add_argument(
        "classes", nargs="*", help="names of classes that the generator was trained on"
    )
    parser.add_argument(
        "--random", action="store_true", help="a sheet of 8 x 8 classes, drawn by --seed"
    )
    parser.add_argument("--k", type=int, help="tokens of each image of the sheet; all by default")
    parser.add_argument("-o", "--output", type=Path, required=True, help="PNG to write")
    parser.add_argument(
        "--tokenizer", type=Path, default=Path("tokenizer/weights/demo.safetensors")
    )
    add_sampling_arguments(parser)
    options = parser.parse_intermixed_args()
    if options.random == bool(options.classes):
        parser.error("give names of classes, or --random")
    if options.k is not None and not options.random:
        parser.error("--k is for --random")
    generator, tokenizer = (
        checkpoint.load(options.weights),
        tokenizer_checkpoint.load(options.tokenizer),
    )
    fingerprint = tokenizer_checkpoint.fingerprint(tokenizer)
    if fingerprint != generator.tokenizer:
        sys.exit(
            f"{options.weights} generates tokens of tokenizer {generator.tokenizer}, but "
            f"{options.tokenizer} is {fingerprint}"
        )
    names = random_sheet(generator.classes, options.seed) if options.random else options.classes
    if unknown := [name for name in names if name not in generator.classes]:
        sys.exit(
            f"{options.weights} does not know {', '.join(unknown)}; its classes are "
            f"{', '.join(generator.classes)}"
        )
    channels = generator.model.shape.channels
    k = channels if options.k is None else options.k
    if not 1 <= k <= channels:
        sys.exit(f"k must be 1 to {channels}, not {k}")
    labels = [generator.classes.index(name) for name in names]
    tokens = sample(generator.model, labels, options.seed, **asdict(Setting.of(options)))
    if options.random:
        draw(sheet(names, inference.decode(tokenizer, tokens, k)), options.output)
        return
    columns = [
        Column([f"{name}, k = {k}" for name in names], inference.decode(tokenizer, tokens, k))
        for k in inference.budgets(channels)
    ]
    draw(columns, options.output)


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of how a command samples: --seed, and those of `Setting`."""
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--temperature", type=float, default=TEMPERATURE)
    parser.add_argument(
        "--final-temperature",
        type=float,
        help="of the last token, to which that of each goes linearly; --temperature by default",
    )
    parser.add_argument(
        "--top-k",
        type=int,
        default=TOP_K,
        help="sample among the TOP_K likeliest values, of each byte where a token has two; 0 = all",
    )
    parser.add_argument(
        "--top-p",
        type=float,
        default=1.0,
        help="of these, among the likeliest that together have TOP_P of the probability; 1 = all",
    )
    parser.add_argument(
        "--guidance",
        type=float,
        default=1.0,
        help="classifier-free guidance: over 1 follows the class more closely, with less variety",
    )


def random_sheet(names: Sequence[str], seed: int) -> list[str]:
    """A name for each image of a sheet, drawn with replacement."""
    return random.Random(seed).choices(names, k=SHEET_SIDE**2)


def sheet(titles: Sequence[str], images: Images) -> list[Column]:
    """Columns of a square sheet, which is read row by row. images: uint8 [N, H, W, 3]."""
    return [
        Column(titles[column::SHEET_SIDE], images[column::SHEET_SIDE])
        for column in range(SHEET_SIDE)
    ]


if __name__ == "__main__":
    main()

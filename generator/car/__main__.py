"""Commands `python -m generator.car align`, `finetune`, `sample`: train CAR, draw its samples."""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from generator.car import model
from generator.car.train import AlignCommand, FinetuneCommand
from generator.sample import Setting, add_sampling_arguments, random_sheet, sheet
from tokenizer import checkpoint, inference
from tokenizer.evaluation.image_grid import Column, draw
from tokenizer.training.recipe import run_command

STAGES: dict[str, type[AlignCommand] | type[FinetuneCommand]] = {
    "align": AlignCommand,
    "finetune": FinetuneCommand,
}


def main(arguments: list[str]) -> None:
    """Run a command. Exits with a message when checkpoints or data do not fit together."""
    parser = argparse.ArgumentParser(
        prog="python -m generator.car",
        description=__doc__,
        add_help=arguments[:1] in ([], ["-h"], ["--help"]),
    )
    parser.add_argument(
        "command", choices=[*STAGES, "sample"], help="each command has its own --help"
    )
    command = parser.parse_args(arguments[:1]).command
    try:
        if command == "sample":
            sample(arguments[1:])
        else:
            run_command(STAGES[command], arguments[1:])
    except ValueError as error:
        sys.exit(str(error))


def sample(arguments: list[str]) -> None:
    """Draw images of texts. Raises ValueError for no checkpoint, or one of another tokenizer."""
    parser = argparse.ArgumentParser(
        prog="python -m generator.car sample",
        description="Draw images that CAR generates from texts, coarse to fine; with --random, a "
        "sheet of images of random classes instead, all of one k.",
    )
    parser.add_argument(
        "checkpoint", type=Path, help="`car` folder of a run, or generator/weights/car"
    )
    parser.add_argument("texts", nargs="*", help='prompts, such as "a photo of cup"')
    parser.add_argument(
        "--random", action="store_true", help="a sheet of 8 x 8 of its classes, drawn by --seed"
    )
    parser.add_argument("--k", type=int, help="tokens of each image of the sheet; all by default")
    parser.add_argument("-o", "--output", type=Path, required=True, help="PNG to write")
    parser.add_argument("--tokenizer", type=Path, default=Path("tokenizer/weights/cvq.safetensors"))
    add_sampling_arguments(parser)
    options = parser.parse_intermixed_args(arguments)
    if options.random == bool(options.texts):
        parser.error("give texts, or --random")
    if options.k is not None and not options.random:
        parser.error("--k is for --random")
    car, tokenizer = model.load(options.checkpoint), checkpoint.load(options.tokenizer)
    fingerprint = checkpoint.fingerprint(tokenizer)
    if fingerprint != car.tokenizer:
        raise ValueError(
            f"{options.checkpoint} generates tokens of tokenizer {car.tokenizer}, but "
            f"{options.tokenizer} is {fingerprint}"
        )
    texts = options.texts or [
        model.text_of(name) for name in random_sheet(car.classes, options.seed)
    ]
    k = car.channels if options.k is None else options.k
    tokens = car.generate(texts, k, options.seed, **asdict(Setting.of(options)))
    if options.random:
        titles = [text.removeprefix("a photo of ") for text in texts]
        draw(sheet(titles, inference.decode(tokenizer, tokens, k)), options.output)
        return
    columns = [
        Column([f"{text}\nk = {k}" for text in texts], inference.decode(tokenizer, tokens, k))
        for k in (car.channels // 16, car.channels // 4, car.channels)
    ]
    draw(columns, options.output)


if __name__ == "__main__":
    main(sys.argv[1:])

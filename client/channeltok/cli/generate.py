"""`channeltok generate`: generate an image, with previews on the way."""

import argparse
import sys
from pathlib import Path
from typing import Any

from channeltok.cli.images import (
    display_name,
    image_format,
    preview_path,
    read_token_file,
    whole_numbers,
    write_output,
)
from channeltok.cli.server_options import connect
from channeltok.generation import Generated, GenerateParams, NewTokens, Preview, Started


def add_command(commands: Any, parents: list[argparse.ArgumentParser]) -> None:
    """Add generate to the subparsers `commands`."""
    generate = commands.add_parser("generate", parents=parents, help="generate an image")
    generate.add_argument(
        "--generator", metavar="NAME", help="default: the service's default generator"
    )
    generate.add_argument(
        "--class", dest="class_name", metavar="CLASS", help="one of the generator's classes"
    )
    generate.add_argument(
        "--prompt",
        metavar="TEXT",
        help="what the image shall show, of a generator that takes texts",
    )
    generate.add_argument("-k", type=int, help="number of tokens; default: all")
    generate.add_argument(
        "--seed", type=int, help="the same seed gives the same image; default: a random one"
    )
    generate.add_argument(
        "--prefix", metavar="TOKENS", type=Path, help="a .ctok file whose tokens to continue from"
    )
    generate.add_argument(
        "--temperature", type=float, help="0 always takes the most likely token; default: 0.85"
    )
    generate.add_argument(
        "--final-temperature",
        type=float,
        help="temperature of the last token of a whole image, to which that of each goes linearly; "
        "default: --temperature",
    )
    generate.add_argument(
        "--top-k",
        type=int,
        help="sample from this many of the most likely ids, 0 from all; default: 200",
    )
    generate.add_argument(
        "--top-p",
        type=float,
        help="of those, from the most likely ids that together have this share of the "
        "probability; default: 1, all",
    )
    generate.add_argument(
        "--guidance",
        type=float,
        help="over 1 follows class or prompt more closely, with less variety; default: 1",
    )
    generate.add_argument(
        "--previews",
        metavar="K,K,...",
        type=whole_numbers,
        default=[],
        help="also write the image at these numbers of tokens",
    )
    generate.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        required=True,
        help="the image: .png, .jpg, .jpeg, .webp; - writes PNG to stdout",
    )
    generate.add_argument("--tokens", metavar="FILE", type=Path, help="also write the tokens")
    generate.set_defaults(run=_generate)


def _generate(options: argparse.Namespace) -> None:
    params = GenerateParams(
        generator=options.generator,
        class_name=options.class_name,
        prompt=options.prompt,
        prefix=None if options.prefix is None else read_token_file(options.prefix),
        k=options.k,
        seed=options.seed,
        temperature=options.temperature,
        final_temperature=options.final_temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        guidance=options.guidance,
        previews=options.previews,
        preview_format=image_format(options.output),
    )
    with connect(options) as client:
        for event in client.generate(params):
            match event:
                case Started(generator=generator, fingerprint=fingerprint, seed=seed, k=k):
                    summary = f"{generator}, seed {seed}, fingerprint {fingerprint}"
                case NewTokens(index, ids):
                    _print_progress(f"\r{index + len(ids)}/{k} tokens")
                case Preview(k_so_far, image):
                    write_output(preview_path(options.output, k_so_far), image)
                case Generated(tokens):
                    _print_progress("\n")
        image = client.decode(tokens, params.preview_format)
    write_output(options.output, image)
    if options.tokens is not None:
        options.tokens.write_bytes(tokens.to_bytes())
    print(
        f"{display_name(options.output)}: {tokens.k} tokens by {summary}",
        file=sys.stderr if options.output == "-" else sys.stdout,
    )


def _print_progress(text: str) -> None:
    if sys.stderr.isatty():
        print(text, end="", file=sys.stderr, flush=True)

"""`channeltok generate`: a new image."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from channeltok._messages import ImageFormat
from channeltok.client import Client
from channeltok.generation import Generated, GenerateParams, NewTokens, Preview, Started
from channeltok.tokens import Tokens

Connect = Callable[[argparse.Namespace], Client]
FormatOf = Callable[[str], ImageFormat]


def add_command(
    commands: Any,
    parents: list[argparse.ArgumentParser],
    connect: Connect,
    format_of: FormatOf,
) -> None:
    """connect: the client that the options ask for. format_of: that of an output's name; complains about others."""
    generate = commands.add_parser("generate", parents=parents, help="a new image")
    generate.add_argument("--generator", metavar="NAME", help="default: the service's")
    generate.add_argument(
        "--class",
        dest="class_name",
        metavar="CLASS",
        help="what it shows: one of the generator's classes",
    )
    generate.add_argument("-k", type=int, help="tokens of the image; default: all")
    generate.add_argument(
        "--seed", type=int, help="the same gives the same image; default: drawn, and told"
    )
    generate.add_argument(
        "--prefix", dest="input", metavar="TOKENS", type=Path, help="a .ctok file to go on with"
    )
    generate.add_argument(
        "--temperature", type=float, help="0: the likeliest token each time; default: 0.85"
    )
    generate.add_argument(
        "--top-k",
        type=int,
        help="draw from so many of the likeliest ids; 0: from all; default: 200",
    )
    generate.add_argument(
        "--previews",
        metavar="K,K,...",
        type=_budgets,
        default=[],
        help="write the image at these k too",
    )
    generate.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        required=True,
        help="the image: .png, .jpg, .jpeg, .webp; - is PNG on stdout",
    )
    generate.add_argument("--tokens", metavar="FILE", type=Path, help="write the token bytes too")
    generate.set_defaults(run=lambda options: _generate(options, connect, format_of))


def _budgets(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"are whole numbers with commas between, not {text!r}"
        ) from error


def _generate(options: argparse.Namespace, connect: Connect, format_of: FormatOf) -> None:
    format = format_of(options.output)
    prefix = None if options.input is None else Tokens.from_bytes(options.input.read_bytes())
    params = GenerateParams(
        generator=options.generator,
        class_name=options.class_name,
        prefix=prefix,
        k=options.k,
        seed=options.seed,
        temperature=options.temperature,
        top_k=options.top_k,
        previews=options.previews,
        preview_format=format,
    )
    with connect(options) as client:
        summary = ""
        for event in client.generate(params):
            match event:
                case Started():
                    k, summary = (
                        event.k,
                        f"{event.generator}, seed {event.seed}, fingerprint {event.fingerprint}",
                    )
                case NewTokens():
                    _progress(f"\r{event.index + len(event.ids)}/{k} tokens")
                case Preview():
                    _write(_beside(options.output, event.k), event.image)
                case Generated():
                    tokens = event.tokens
        _progress("\n")
        image = client.decode(tokens, format)
    _write(options.output, image)
    if options.tokens is not None:
        options.tokens.write_bytes(tokens.to_bytes())
    name = "stdout" if options.output == "-" else options.output
    print(
        f"{name}: {tokens.k} tokens by {summary}",
        file=sys.stderr if options.output == "-" else sys.stdout,
    )


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(text, end="", file=sys.stderr, flush=True)


def _beside(output: str, k: int) -> str:
    """out.png -> out.k8.png; previews of stdout are preview.k8.png."""
    path = Path("preview.png" if output == "-" else output)
    return str(path.with_suffix(f".k{k}{path.suffix}"))


def _write(output: str, data: bytes) -> None:
    if output == "-":
        sys.stdout.buffer.write(data)
    else:
        Path(output).write_bytes(data)

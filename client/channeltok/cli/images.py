"""`channeltok encode | decode | info`: single images, token files, and what the service serves."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from channeltok._messages import ImageFormat, TokenizerInfo
from channeltok.cli.command import CommandFailed
from channeltok.cli.server_options import connect
from channeltok.errors import InvalidInput, UnknownTokenizer
from channeltok.fit import FITS, Aspect, parse_aspect
from channeltok.quality import Quality
from channeltok.tokens import TokenBytesError, Tokens

SUFFIX = ".ctok"
SHOWN_IDS = 8

_FORMAT_OF_SUFFIX: dict[str, ImageFormat] = {
    ".png": "png",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".webp": "webp",
}


def add_commands(commands: Any, parents: list[argparse.ArgumentParser]) -> None:
    """Add encode, decode and info to the subparsers `commands`."""
    encode = commands.add_parser("encode", parents=parents, help="encode an image to tokens")
    encode.add_argument("input", metavar="IMAGE", type=Path, help="a JPEG, PNG or WebP file")
    add_length_options(encode)
    add_fit_option(encode)
    encode.add_argument(
        "-o", "--output", metavar="FILE", help=f"default: IMAGE with suffix {SUFFIX}; - is stdout"
    )
    encode.add_argument(
        "--ids", action="store_true", help="also print the token ids on one line of stdout"
    )
    encode.set_defaults(run=_encode)

    decode = commands.add_parser("decode", parents=parents, help="decode tokens to an image")
    decode.add_argument("input", metavar="TOKENS", type=Path, help=f"a {SUFFIX} file")
    decode.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="image file, its format given by the suffix: .png, .jpg, .jpeg, .webp; "
        "default: TOKENS with suffix .png; - writes PNG to stdout",
    )
    decode.add_argument(
        "--aspect",
        metavar="W:H",
        type=_aspect,
        help="proportions of an image that was encoded with --fit pad, such as 3:2 or 1920:1080: "
        "removes its bands; default: the whole square",
    )
    decode.add_argument(
        "-k",
        "--k",
        metavar="K,K,...",
        dest="ks",
        type=whole_numbers,
        help="decode the first K tokens only; several write an image for each, in one call: "
        "OUTPUT.k8.png, OUTPUT.k16.png, ...; default: all tokens",
    )
    decode.set_defaults(run=_decode)

    info = commands.add_parser(
        "info", parents=parents, help="list the service's tokenizers, or describe a token file"
    )
    info.add_argument(
        "input", metavar="TOKENS", type=Path, nargs="?", help=f"a {SUFFIX} file; needs no service"
    )
    info.set_defaults(run=_info)


def add_length_options(parser: argparse.ArgumentParser) -> None:
    """Add -k and --quality, which exclude each other."""
    length = parser.add_mutually_exclusive_group()
    length.add_argument("-k", type=int, help="number of tokens to keep; default: all")
    length.add_argument(
        "--quality",
        metavar="Q",
        type=_quality,
        help="choose k for each image: the fewest tokens that reach ssim=0.6 or psnr=24, as many "
        "as gain ssim_per_token=0.001 each, or the best image in max_bytes=128; a target and a "
        "limit combine: ssim=0.6,max_bytes=128",
    )


def add_fit_option(parser: argparse.ArgumentParser) -> None:
    """Add --fit."""
    parser.add_argument(
        "--fit",
        choices=FITS,
        default="crop",
        help="what to see of an image that is not square: crop, the centred square; pad, the whole "
        "image with two bands that make it square; default: crop",
    )


def _aspect(text: str) -> Aspect:
    try:
        return parse_aspect(text)
    except InvalidInput as error:
        raise argparse.ArgumentTypeError(error.message) from error


def _quality(text: str) -> Quality:
    try:
        return Quality.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _encode(options: argparse.Namespace) -> None:
    if options.ids and options.output == "-":
        raise CommandFailed("--ids and -o - would both write to stdout", exit_code=2)
    image = options.input.read_bytes()
    output = options.output or str(options.input.with_suffix(SUFFIX))
    with connect(options) as client:
        tokens = client.encode(
            image, options.k, options.tokenizer, quality=options.quality, fit=options.fit
        )
    data = tokens.to_bytes()
    write_output(output, data)
    summary = (
        f"{display_name(output)}: {tokens.k} tokens, {len(data)} bytes, "
        f"fingerprint {tokens.fingerprint}"
    )
    for point in tokens.curve:
        if point.k == tokens.k:
            summary += f", SSIM {point.ssim:.3f}, {point.psnr:.1f} dB"
    if options.fit == "pad" and tokens.aspect is not None:
        summary += f"; decode with --aspect {tokens.aspect[0]}:{tokens.aspect[1]}"
    if options.ids:
        print(*tokens.ids)
    print(summary, file=sys.stderr if options.ids or output == "-" else sys.stdout)


def _decode(options: argparse.Namespace) -> None:
    tokens = read_token_file(options.input)
    output = options.output or str(options.input.with_suffix(".png"))
    several = options.ks is not None and len(options.ks) > 1
    # photo.png -> photo.ctok -> photo.png: the default must not overwrite the original.
    if options.output is None and not several and os.path.exists(output):
        raise CommandFailed(f"{output} exists; to overwrite it, use -o {output}")
    if output == "-" and several:
        raise CommandFailed("several images do not fit into stdout: give -o a file", exit_code=2)
    format = image_format(output)
    arguments: dict[str, Any] = {"tokenizer": options.tokenizer, "aspect": options.aspect}
    with connect(options) as client:
        if options.ks is None:
            _write_image(output, client.decode(tokens, format, **arguments), tokens)
            return
        for preview in client.decode_progressive(tokens, options.ks, format, **arguments):
            path = preview_path(output, preview.k) if several else output
            _write_image(path, preview.image, tokens.prefix(preview.k))


def _write_image(output: str, image: bytes, tokens: Tokens) -> None:
    write_output(output, image)
    summary = (
        f"{display_name(output)}: {image_format(output)} of {len(image)} bytes, from {tokens.k} "
        f"tokens, fingerprint {tokens.fingerprint}"
    )
    print(summary, file=sys.stderr if output == "-" else sys.stdout)


def _info(options: argparse.Namespace) -> None:
    if options.input is not None:
        print(_describe(read_token_file(options.input)))
        return
    with connect(options) as client:
        served = client.tokenizers()
    chosen = [info for info in served if options.tokenizer in (None, info.name)]
    if not chosen and options.tokenizer is not None:
        names = ", ".join(info.name for info in served) or "none"
        raise UnknownTokenizer(
            "UNKNOWN_TOKENIZER", f"no tokenizer is named {options.tokenizer!r}; served: {names}"
        )
    print(_table(chosen))


def _describe(tokens: Tokens) -> str:
    more = " ..." if tokens.k > SHOWN_IDS else ""
    return (
        f"k            {tokens.k}\n"
        f"fingerprint  {tokens.fingerprint}\n"
        f"bytes        {len(tokens.to_bytes())}\n"
        f"ids          {' '.join(map(str, tokens.ids[:SHOWN_IDS]))}{more}"
    )


def _table(tokenizers: Sequence[TokenizerInfo]) -> str:
    rows = [
        (
            "name",
            "family",
            "fingerprint",
            "max_tokens",
            "bits",
            "vocab_size",
            "pixels",
            "budgets",
            "relative_costs",
        )
    ]
    rows += [
        (
            info.name,
            info.family,
            info.fingerprint,
            str(info.max_tokens),
            str(info.bits_per_token),
            str(info.vocab_size),
            f"{info.image_size}x{info.image_size}",
            " ".join(map(str, info.budgets)),
            " ".join(f"{cost:g}" for cost in info.relative_costs),
        )
        for info in tokenizers
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def read_token_file(path: Path) -> Tokens:
    """The tokens in a .ctok file. Raises CommandFailed for other content, OSError."""
    try:
        return Tokens.from_bytes(path.read_bytes())
    except TokenBytesError as error:
        raise CommandFailed(f"{path}: {error}") from error


def image_format(output: str) -> ImageFormat:
    """The format that the suffix of an output file names; PNG for "-". Raises CommandFailed."""
    if output == "-":
        return "png"
    suffix = Path(output).suffix.lower()
    if suffix not in _FORMAT_OF_SUFFIX:
        raise CommandFailed(
            f"{output}: the suffix of an image is one of {', '.join(_FORMAT_OF_SUFFIX)}",
            exit_code=2,
        )
    return _FORMAT_OF_SUFFIX[suffix]


def whole_numbers(text: str) -> list[int]:
    """Numbers with commas between them, as the value of an option."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"are whole numbers with commas between, not {text!r}"
        ) from error


def preview_path(output: str, k: int) -> str:
    """out.png -> out.k8.png; previews of stdout are preview.k8.png."""
    path = Path("preview.png" if output == "-" else output)
    return str(path.with_suffix(f".k{k}{path.suffix}"))


def write_output(output: str, data: bytes) -> None:
    """Write to a file, or to stdout for "-"."""
    if output == "-":
        sys.stdout.buffer.write(data)
    else:
        Path(output).write_bytes(data)


def display_name(output: str) -> str:
    """An output's name for messages."""
    # A file name may hold bytes that are not text; printing them raw would raise.
    return "stdout" if output == "-" else output.encode(errors="backslashreplace").decode()

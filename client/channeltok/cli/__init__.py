"""The command line: `channeltok encode | decode | generate | info | tokenize | detokenize | verify`."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

import grpc

from channeltok._channel import DEFAULT_TARGET
from channeltok._messages import ImageFormat, TokenizerInfo
from channeltok.cli import datasets, generate
from channeltok.client import Client
from channeltok.errors import ChannelTokError, UnknownTokenizer
from channeltok.tokens import TokenBytesError, Tokens

SUFFIX = ".ctok"
FIRST_IDS = 8

_FORMAT_OF_SUFFIX: dict[str, ImageFormat] = {
    ".png": "png",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".webp": "webp",
}


class _Refused(Exception):
    """What was asked cannot be done; the text is for the person who asked."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"channeltok: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; arguments default to the process's own. Returns the exit code: 0, 1 for a failure, 2 for wrong usage."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
        sys.stdout.flush()
    except _Refused as error:
        return _complain(str(error), error.exit_code)
    except datasets.NotDone as error:
        return _complain(str(error))
    except TokenBytesError as error:
        return _complain(f"{options.input}: {error}")
    except ChannelTokError as error:
        return _complain(_explain(error, options.server))
    except (
        BrokenPipeError
    ):  # whoever read our output has enough, as in `| head`; exit must not try to write the rest
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _complain(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    service = _Parser(add_help=False)
    service.add_argument(
        "--server",
        metavar="HOST:PORT",
        type=_not_empty,
        default=os.environ.get("CHANNELTOK_SERVER") or DEFAULT_TARGET,
        help="where the service listens; default: $CHANNELTOK_SERVER, else " + DEFAULT_TARGET,
    )
    service.add_argument(
        "--tls", action="store_true", help="TLS, with the roots that this system trusts"
    )
    service.add_argument(
        "--ca",
        metavar="FILE",
        type=Path,
        help="TLS, with the root certificates of this PEM file instead",
    )
    service.add_argument(
        "--certificate",
        metavar="FILE",
        type=Path,
        help="mutual TLS: your certificate, PEM; implies --tls",
    )
    service.add_argument(
        "--key", metavar="FILE", type=Path, help="mutual TLS: the key of --certificate, PEM"
    )
    service.add_argument(
        "--bearer-token-file",  # no flag takes the token itself: whoever lists processes would see it
        metavar="FILE",
        type=Path,
        help="a file that holds your bearer token; default: the token in $CHANNELTOK_BEARER_TOKEN, else none",
    )
    service.add_argument(
        "--tokenizer", metavar="NAME", help="one of those that `channeltok info` lists"
    )

    parser = _Parser(
        prog="channeltok",
        description="Images to short token sequences and back, by a ChannelTok service.",
    )
    parser.add_argument(
        "--version", action="version", version=f"channeltok {version('channeltok')}"
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    encode = commands.add_parser("encode", parents=[service], help="an image to tokens")
    encode.add_argument("input", metavar="IMAGE", type=Path, help="a JPEG, PNG or WebP")
    length = encode.add_mutually_exclusive_group()
    length.add_argument("-k", type=int, help="how many tokens to keep; default: all")
    length.add_argument("--quality", metavar="Q", type=datasets.quality, help=datasets.QUALITY_HELP)
    encode.add_argument(
        "-o", "--output", metavar="FILE", help=f"default: IMAGE with {SUFFIX}; - is stdout"
    )
    encode.add_argument(
        "--ids", action="store_true", help="print the ids too, as text on one line of stdout"
    )
    encode.set_defaults(run=_encode)

    decode = commands.add_parser("decode", parents=[service], help="tokens to an image")
    decode.add_argument("input", metavar="TOKENS", type=Path, help=f"a {SUFFIX} file")
    decode.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="its suffix says the format: .png, .jpg, .jpeg, .webp; default: TOKENS with .png; - is PNG on stdout",
    )
    decode.set_defaults(run=_decode)

    generate.add_command(commands, [service], _connect, _format)

    info = commands.add_parser(
        "info", parents=[service], help="what the service serves, or what a file of tokens holds"
    )
    info.add_argument(
        "input", metavar="TOKENS", type=Path, nargs="?", help=f"a {SUFFIX} file; needs no service"
    )
    info.set_defaults(run=_info)
    datasets.add_commands(commands, [service], _connect)
    return parser


def _not_empty(server: str) -> str:
    if not server:  # --server "$UNSET"
        raise argparse.ArgumentTypeError("is empty")
    return server


def _connect(options: argparse.Namespace) -> Client:
    if (options.certificate is None) != (options.key is None):
        raise _Refused("--certificate and --key go together", exit_code=2)
    credentials = None
    if options.tls or options.ca or options.certificate:
        root, key, certificate = (
            None if file is None else file.read_bytes()
            for file in (options.ca, options.key, options.certificate)
        )
        credentials = grpc.ssl_channel_credentials(root, key, certificate)
    token = os.environ.get("CHANNELTOK_BEARER_TOKEN") or None
    if options.bearer_token_file is not None:
        token = options.bearer_token_file.read_text().strip()
    try:
        return Client(options.server, credentials=credentials, bearer_token=token)
    except ValueError as error:
        raise _Refused(str(error)) from error


def _encode(options: argparse.Namespace) -> None:
    if options.ids and options.output == "-":
        raise _Refused("--ids and -o - would both write to stdout", exit_code=2)
    image = options.input.read_bytes()
    output = options.output or str(options.input.with_suffix(SUFFIX))
    with _connect(options) as client:
        tokens = client.encode(image, options.k, options.tokenizer, quality=options.quality)
    data = tokens.to_bytes()
    _write(output, data)
    summary = (
        f"{_name(output)}: {tokens.k} tokens, {len(data)} bytes, fingerprint {tokens.fingerprint}"
    )
    for one in tokens.curve:
        if one.k == tokens.k:
            summary += f", SSIM {one.ssim:.3f}, {one.psnr:.1f} dB"
    if options.ids:
        print(*tokens.ids)
    print(summary, file=sys.stderr if options.ids or output == "-" else sys.stdout)


def _decode(options: argparse.Namespace) -> None:
    tokens = Tokens.from_bytes(options.input.read_bytes())
    output = options.output or str(options.input.with_suffix(".png"))
    # photo.png -> photo.ctok -> photo.png: the default must not cost anyone the original.
    if options.output is None and os.path.exists(output):
        raise _Refused(f"{output} exists; to write over it, say so with -o {output}")
    format = _format(output)
    with _connect(options) as client:
        image = client.decode(tokens, format, options.tokenizer)
    _write(output, image)
    summary = f"{_name(output)}: {format} of {len(image)} bytes, from {tokens.k} tokens, fingerprint {tokens.fingerprint}"
    print(summary, file=sys.stderr if output == "-" else sys.stdout)


def _info(options: argparse.Namespace) -> None:
    if options.input is not None:
        data = options.input.read_bytes()
        print(_describe(Tokens.from_bytes(data), len(data)))
        return
    with _connect(options) as client:
        served = client.tokenizers()
    chosen = [t for t in served if options.tokenizer in (None, t.name)]
    if not chosen and options.tokenizer is not None:
        names = ", ".join(t.name for t in served) or "none"
        raise UnknownTokenizer(
            "UNKNOWN_TOKENIZER", f"no tokenizer is named {options.tokenizer!r}; served: {names}"
        )
    print(_table(chosen))


def _describe(tokens: Tokens, size: int) -> str:
    first = " ".join(map(str, tokens.ids[:FIRST_IDS])) + (" ..." if tokens.k > FIRST_IDS else "")
    return f"k            {tokens.k}\nfingerprint  {tokens.fingerprint}\nbytes        {size}\nids          {first}"


def _table(tokenizers: Sequence[TokenizerInfo]) -> str:
    rows = [("name", "family", "fingerprint", "channels", "bits", "ids", "pixels", "budgets")]
    rows += [
        (
            t.name,
            t.family,
            t.fingerprint,
            str(t.max_tokens),
            str(t.bits_per_token),
            str(t.vocab_size),
            f"{t.image_size}x{t.image_size}",
            " ".join(map(str, t.budgets)),
        )
        for t in tokenizers
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _format(output: str) -> ImageFormat:
    if output == "-":
        return "png"
    suffix = Path(output).suffix.lower()
    if suffix not in _FORMAT_OF_SUFFIX:
        raise _Refused(
            f"{output}: the suffix of an image is one of {', '.join(_FORMAT_OF_SUFFIX)}",
            exit_code=2,
        )
    return _FORMAT_OF_SUFFIX[suffix]


def _write(output: str, data: bytes) -> None:
    if output == "-":
        sys.stdout.buffer.write(data)
    else:
        Path(output).write_bytes(data)


def _name(output: str) -> str:
    # A file name may hold bytes that are no text; they must not keep the line from being printed.
    return "stdout" if output == "-" else output.encode(errors="backslashreplace").decode()


def _explain(error: ChannelTokError, server: str) -> str:
    if error.code == "UNAVAILABLE":
        return f"no service at {server}: {error.message}"
    hint = "" if error.retry_after is None else f" (try again in {error.retry_after:g} s)"
    return f"{error.message} [{error.code}]{hint}"


def _complain(message: str, exit_code: int = 1) -> int:
    print("channeltok:", " ".join(message.split()), file=sys.stderr)
    return exit_code

"""Options of the commands that call a service (--server, TLS, bearer token), and their client."""

import argparse
import codecs
import os
from pathlib import Path

import grpc

from channeltok._channel import DEFAULT_TARGET
from channeltok._client import Client
from channeltok.bearer_token_file import read_bearer_tokens
from channeltok.cli.command import CommandFailed


def server_parser() -> argparse.ArgumentParser:
    """A parent parser with the options that `connect` reads, and --tokenizer."""
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument(
        "--server",
        metavar="HOST:PORT",
        type=_not_empty,
        default=os.environ.get("CHANNELTOK_SERVER") or DEFAULT_TARGET,
        help="address of the service; dataset commands take several, A,B,C; "
        f"default: $CHANNELTOK_SERVER, else {DEFAULT_TARGET}",
    )
    options.add_argument(
        "--tls", action="store_true", help="use TLS with the root certificates of this system"
    )
    options.add_argument(
        "--ca",
        metavar="FILE",
        type=Path,
        help="use TLS with the root certificates in this PEM file",
    )
    options.add_argument(
        "--certificate",
        metavar="FILE",
        type=Path,
        help="mutual TLS: PEM file with your certificate; implies --tls",
    )
    options.add_argument(
        "--key", metavar="FILE", type=Path, help="mutual TLS: PEM file with the certificate's key"
    )
    # No option takes the token itself: any user who lists processes would see it.
    options.add_argument(
        "--bearer-token-file",
        metavar="FILE",
        type=Path,
        help="file with your bearer token, and comments after #; "
        "default: $CHANNELTOK_BEARER_TOKEN, else no token",
    )
    options.add_argument(
        "--tokenizer",
        metavar="NAME",
        help="a tokenizer that `channeltok info` lists; default: the service's default",
    )
    return options


def _not_empty(server: str) -> str:
    if not server:  # --server "$UNSET"
        raise argparse.ArgumentTypeError("is empty")
    return server


def connect(options: argparse.Namespace, server: str | None = None) -> Client:
    """A client of `server` (None: --server) with the TLS files and the token of the options.

    Raises CommandFailed for options that do not fit together, OSError for a file it cannot read.
    """
    if (options.certificate is None) != (options.key is None):
        raise CommandFailed("--certificate and --key go together", exit_code=2)
    credentials = None
    if options.tls or options.ca or options.certificate:
        root, key, certificate = (
            # gRPC would skip the first certificate of a file with a byte order mark.
            None if file is None else file.read_bytes().removeprefix(codecs.BOM_UTF8)
            for file in (options.ca, options.key, options.certificate)
        )
        credentials = grpc.ssl_channel_credentials(root, key, certificate)
    token = os.environ.get("CHANNELTOK_BEARER_TOKEN") or None
    if options.bearer_token_file is not None:
        token = _read_bearer_token(options.bearer_token_file)
    try:
        return Client(server or options.server, credentials=credentials, bearer_token=token)
    except ValueError as error:
        raise CommandFailed(str(error)) from error


def _read_bearer_token(file: Path) -> str:
    """Raises CommandFailed unless the file has exactly one token, OSError."""
    try:
        tokens = read_bearer_tokens(file.read_bytes())
    except ValueError as error:
        raise CommandFailed(f"{file}: {error}, so it has no bearer token") from error
    if len(tokens) != 1:
        raise CommandFailed(f"{file} has {len(tokens)} bearer tokens; it must have one")
    return tokens[0][1]

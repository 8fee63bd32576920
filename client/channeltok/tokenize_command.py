"""`channeltok tokenize`. What it needs beyond the client is imported when it runs: every other command starts without."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from channeltok.client import Client

if TYPE_CHECKING:
    from channeltok.datasets import Engine, Summary


class CannotTokenize(Exception):
    """The run did not come to its end; the message says why."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `channeltok tokenize` takes beside what says which service and tokenizer."""
    parser.add_argument("source", metavar="SOURCE", help="a folder, a tar, a Parquet file, or a pattern of them; a path or a URL")
    parser.add_argument("destination", metavar="DEST", help="a folder of token shards; one that was begun goes on")
    parser.add_argument("-k", type=int, help="how many tokens to keep; default: all")
    parser.add_argument("--format", choices=("parquet", "webdataset"), default="parquet", help="default: parquet")
    parser.add_argument("--max-rejects", metavar="N", type=int, help="stop when more pictures than this have no tokens; default: never")
    parser.add_argument(
        "--embedded",
        metavar="REPOSITORY",
        type=Path,
        nargs="?",
        const=Path("model_repository"),
        help="no service: the engines of this model repository, in this process; default: model_repository",
    )


def run(options: argparse.Namespace, connect: Callable[[str], Client]) -> None:
    """connect: to one of the servers. Raises CannotTokenize and ChannelTokError."""
    try:
        from channeltok import datasets
        from channeltok.datasets.meter import Meter
    except ImportError as error:
        raise CannotTokenize(f"datasets need more packages: pip install 'channeltok[batch]' ({error})") from error
    with ExitStack() as stack:
        try:
            if options.embedded is not None:
                engines: list[Engine] = [stack.enter_context(_embedded(options.embedded))]
            else:
                engines = [stack.enter_context(connect(server)) for server in options.server.split(",")]
            summary = datasets.tokenize(
                options.source,
                options.destination,
                engines,
                k=options.k,
                tokenizer=options.tokenizer,
                container=options.format,
                max_rejects=options.max_rejects,
                watcher=stack.enter_context(Meter()),
            )
        except (datasets.SourceError, datasets.CannotMix, datasets.TooManyRejects, datasets.ShardFailed, ValueError) as error:
            raise CannotTokenize(str(error)) from error
    print(_told(summary, options.destination))


@contextmanager
def _embedded(repository: Path) -> Iterator["Engine"]:
    try:
        from service.local_engine import LocalEngine
    except ImportError as error:
        why = f"--embedded needs the project's checkout and its extra `serve` ({error}); or name a service with --server"
        raise CannotTokenize(why) from error
    engine = LocalEngine(repository)
    try:
        yield engine
    finally:
        engine.close()


def _told(summary: "Summary", destination: str) -> str:
    rejects = f"; {summary.rejects} rejects in .channeltok/rejects.jsonl" if summary.rejects else ""
    if summary.done_before == summary.shards:
        return f"{destination}: all {summary.shards} shards were done before, {summary.pictures:,} pictures{rejects}; nothing to do"
    rate = summary.new_pictures / max(summary.seconds, 1e-9)
    told = f"{destination}: {summary.pictures:,} pictures, {summary.k} tokens each by {summary.tokenizer} {summary.fingerprint}"
    return f"{told}; {summary.new_pictures:,} of them now, in {summary.seconds:.1f} s ({rate:.0f}/s){rejects}"

"""`channeltok tokenize | detokenize | verify`. What they need beyond the client is imported when they run: other commands start without."""

import argparse
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from channeltok.client import Client
from channeltok.quality import Quality

if TYPE_CHECKING:
    from channeltok.datasets import Summary
    from channeltok.datasets.on_ray import Cluster
    from service.engine.in_process import LocalEngine

Connect: TypeAlias = Callable[[argparse.Namespace], Client]


QUALITY_HELP = (
    "instead of -k, by image: the fewest tokens that reach ssim=0.6 or psnr=24, as many as bring ssim_per_token=0.001 each, "
    "or the best in max_bytes=128; a limit can stand beside a target: ssim=0.6,max_bytes=128"
)


def quality(text: str) -> Quality:
    """For argparse."""
    try:
        return Quality.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


class NotDone(Exception):
    """The command did not come to its end; the message says why."""


def add_commands(commands: Any, parents: list[argparse.ArgumentParser], connect: Connect) -> None:
    """Add the three to the subparsers `commands`. connect: to the server of the options."""
    engine = argparse.ArgumentParser(add_help=False, parents=parents)
    engine.add_argument(
        "--in-process",
        metavar="REPOSITORY",
        type=Path,
        nargs="?",
        const=Path("model_repository"),
        help="no service: the engines of this model repository, in this process; default: model_repository",
    )

    tokenize = commands.add_parser(
        "tokenize",
        parents=[engine],
        help="a whole dataset to token shards; --server takes several, A,B,C",
    )
    tokenize.add_argument(
        "source",
        metavar="SOURCE",
        help="a folder, a tar, a Parquet file, or a pattern of them; a path or a URL",
    )
    tokenize.add_argument(
        "destination", metavar="DEST", help="a folder of token shards; one that was begun goes on"
    )
    length = tokenize.add_mutually_exclusive_group()
    length.add_argument("-k", type=int, help="how many tokens to keep; default: all")
    length.add_argument("--quality", metavar="Q", type=quality, help=QUALITY_HELP)
    tokenize.add_argument(
        "--format", choices=("parquet", "webdataset"), default="parquet", help="default: parquet"
    )
    tokenize.add_argument(
        "--max-rejects",
        metavar="N",
        type=int,
        help="stop when more images than this have no tokens; default: never",
    )
    tokenize.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="spread the shards over a Ray cluster: auto, HOST:PORT or ray://HOST:PORT",
    )
    tokenize.set_defaults(
        run=lambda options: _run(partial(_tokenize, connect=connect), options, connect)
    )

    detokenize = commands.add_parser("detokenize", parents=[engine], help="token shards to images")
    detokenize.add_argument(
        "source",
        metavar="TOKENS",
        help="what `channeltok tokenize` wrote as Parquet; a path or a URL",
    )
    detokenize.add_argument(
        "folder", metavar="DEST", type=Path, help="a folder: KEY.jpg for each row"
    )
    detokenize.add_argument("-k", type=int, help="how many of the tokens to use; default: all")
    detokenize.add_argument(
        "--format", choices=("jpeg", "png", "webp"), default="jpeg", help="default: jpeg"
    )
    detokenize.set_defaults(run=lambda options: _run(_detokenize, options, connect))

    verify = commands.add_parser(
        "verify", parents=[engine], help="make some tokens of a dataset again, and compare"
    )
    verify.add_argument("source", metavar="SOURCE", help="what the tokens were made of")
    verify.add_argument(
        "destination", metavar="TOKENS", help="what `channeltok tokenize` wrote as Parquet"
    )
    verify.add_argument("--sample", metavar="N", type=int, default=100, help="images; default: 100")
    verify.add_argument("--seed", type=int, default=0, help="which images; default: 0")
    verify.set_defaults(run=lambda options: _run(_verify, options, connect))


def _run(
    command: Callable[[argparse.Namespace, list[Any]], None],
    options: argparse.Namespace,
    connect: Connect,
) -> None:
    """Raises NotDone, ChannelTokError, OSError."""
    try:
        from channeltok import datasets
    except ImportError as error:
        raise NotDone(
            f"datasets need more packages: pip install 'channeltok[batch]' ({error})"
        ) from error
    with ExitStack() as stack:
        if options.in_process is not None:
            engines: list[Any] = [stack.enter_context(_in_process(options.in_process))]
        else:
            servers = (
                argparse.Namespace(**{**vars(options), "server": server})
                for server in options.server.split(",")
            )
            engines = [stack.enter_context(connect(server)) for server in servers]
        try:
            command(options, engines)
        except (
            datasets.SourceError,
            datasets.DestinationMismatch,
            datasets.TooManyRejects,
            datasets.ShardFailed,
            ValueError,
        ) as error:
            raise NotDone(str(error)) from error


def _tokenize(options: argparse.Namespace, engines: list[Any], connect: Connect) -> None:
    from channeltok import datasets
    from channeltok.datasets.progress import Meter

    with Meter() as meter:
        summary = datasets.tokenize(
            options.source,
            options.destination,
            engines,
            k=options.k,
            quality=options.quality,
            tokenizer=options.tokenizer,
            container=options.format,
            max_rejects=options.max_rejects,
            watcher=meter,
            cluster=None if options.ray is None else _cluster(options, connect),
        )
    print(_told(summary, options.destination))


def _cluster(options: argparse.Namespace, connect: Connect) -> "Cluster":
    try:
        from channeltok.datasets.on_ray import Cluster
    except ImportError as error:
        raise NotDone(f"--ray needs Ray: pip install 'channeltok[ray]' ({error})") from error
    if options.in_process is None:
        given = {name: value for name, value in vars(options).items() if name != "run"}
        servers = [
            argparse.Namespace(**{**given, "server": server})
            for server in options.server.split(",")
        ]
        return Cluster(options.ray, partial(_connect_to_any, connect, servers))
    import service
    from service.engine.in_process import LocalEngine

    checkout = Path(service.__path__[0]).parent
    return Cluster(
        options.ray,
        partial(LocalEngine, options.in_process.resolve(), threads=1),
        import_path=checkout,
    )


def _connect_to_any(connect: Connect, servers: list[argparse.Namespace]) -> Client:
    return connect(random.choice(servers))


def _detokenize(options: argparse.Namespace, engines: list[Any]) -> None:
    from channeltok import datasets

    count = datasets.detokenize(
        options.source, options.folder, engines[0], k=options.k, format=options.format
    )
    print(f"{options.folder}: {count:,} images")


def _verify(options: argparse.Namespace, engines: list[Any]) -> None:
    from channeltok import datasets

    verified = datasets.verify(
        options.source, options.destination, engines[0], sample=options.sample, seed=options.seed
    )
    different, missing = len(verified.different), len(verified.missing)
    print(
        f"{options.destination}: {verified.images:,} images made into tokens again, {different} differ, {missing} are gone"
    )
    if first := [*verified.different, *verified.missing][:1]:
        raise NotDone(f"not the same, {first[0]} for one")


@contextmanager
def _in_process(repository: Path) -> Iterator["LocalEngine"]:
    checkout = Path(__file__).parents[3]
    if (checkout / "service").is_dir() and str(checkout) not in sys.path:
        sys.path.append(str(checkout))  # installed from it, only the client is importable
    try:
        from service.engine.in_process import LocalEngine
    except ImportError as error:
        why = f"--in-process needs the project's checkout and its extra `serve` ({error}); or name a service with --server"
        raise NotDone(why) from error
    try:
        engine = LocalEngine(repository)
    except ValueError as error:
        raise NotDone(str(error)) from error
    try:
        yield engine
    finally:
        engine.close()


def _told(summary: "Summary", destination: str) -> str:
    rejects = f"; {summary.rejects} rejects in .channeltok/rejects.jsonl" if summary.rejects else ""
    if summary.done_before == summary.shards:
        return f"{destination}: all {summary.shards} shards were done before, {summary.images:,} images{rejects}; nothing to do"
    rate = summary.new_images / max(summary.seconds, 1e-9)
    each = (
        f"{summary.lengths['mean_k']:.1f} tokens in the mean"
        if summary.lengths
        else f"{summary.k} tokens each"
    )
    told = f"{destination}: {summary.images:,} images, {each} by {summary.tokenizer} {summary.fingerprint}"
    return f"{told}; {summary.new_images:,} of them now, in {summary.seconds:.1f} s ({rate:.0f}/s){rejects}{_lengths_told(summary)}"


def _lengths_told(summary: "Summary") -> str:
    if not (told := summary.lengths):
        return ""
    most = max(told["images_by_k"].values())
    lines = [
        f"k {k:5}  {count:9,}  {'#' * round(40 * count / most)}"
        for k, count in told["images_by_k"].items()
    ]
    lines.append(f"{told['bytes']:,} bytes of ids")
    if told["as_sure"]:
        lines.append(
            f"{told['reached']:,} images reach {summary.quality}; for as many, all need {_fixed_told(told['as_sure'])}"
        )
    lines.append(
        f"SSIM {told['mean_ssim']:.3f} in the mean, as with {_fixed_told(told['as_alike'])}"
    )
    return "".join(f"\n  {line}" for line in lines)


def _fixed_told(fixed: dict[str, Any]) -> str:
    saved = fixed["saved"]
    return f"k = {fixed['k']:.0f}: {abs(saved):.1%} {'saved' if saved >= 0 else 'more'}"

"""`channeltok tokenize | detokenize | verify`: whole datasets, through one service or several.

The commands take their engines from two callbacks, so service/in_process.py offers the same
commands without a service. Packages of the extra `batch` are imported only when one runs.
"""

import argparse
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from channeltok._client import Client
from channeltok.cli.command import CommandFailed
from channeltok.cli.images import add_fit_option, add_length_options
from channeltok.cli.server_options import connect

if TYPE_CHECKING:
    from channeltok.datasets import SourceOptions, Summary
    from channeltok.datasets.on_ray import Cluster

OpenEngines: TypeAlias = Callable[[argparse.Namespace], AbstractContextManager[list[Any]]]
MakeCluster: TypeAlias = Callable[[argparse.Namespace], "Cluster"]


def add_commands(
    commands: Any,
    parents: list[argparse.ArgumentParser],
    open_engines: OpenEngines,
    make_cluster: MakeCluster,
) -> None:
    """Add tokenize, detokenize and verify to the subparsers `commands`.

    Args:
        commands: what `ArgumentParser.add_subparsers` returned.
        parents: parsers with the options that the two callbacks read, and --tokenizer.
        open_engines: opens the engines that the options name, and closes them at the end.
        make_cluster: the Ray cluster at --ray, whose workers make such engines of their own.
    """
    tokenize = commands.add_parser(
        "tokenize", parents=parents, help="turn a dataset of images into token shards"
    )
    tokenize.add_argument(
        "source",
        metavar="SOURCE",
        nargs="+",
        help="a folder, a tar, a Parquet file, or a pattern of them with * ? [] or {}; a path or a "
        "URL; several are one dataset",
    )
    tokenize.add_argument(
        "destination",
        metavar="DEST",
        help="folder for the token shards; an unfinished run there is continued",
    )
    add_length_options(tokenize)
    add_fit_option(tokenize)
    _add_source_options(tokenize)
    tokenize.add_argument(
        "--format", choices=("parquet", "webdataset"), default="parquet", help="default: parquet"
    )
    tokenize.add_argument(
        "--max-rejects",
        metavar="N|P%",
        default="50%",
        help="fail a shard when more than P%% of its images cannot be tokenized; or stop when more "
        "than N of all cannot; default: 50%%",
    )
    tokenize.add_argument(
        "--retry-rejects",
        action="store_true",
        help="make shards again that have images without tokens",
    )
    tokenize.add_argument(
        "--patience",
        metavar="SECONDS",
        type=float,
        default=120.0,
        help="end the run when no server has answered for so long; default: 120",
    )
    tokenize.add_argument(
        "--part",
        metavar="I/N",
        help="do only the I-th of N parts, for N machines with one source and destination",
    )
    _add_view_options(tokenize)
    tokenize.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="spread the shards over a Ray cluster: auto, HOST:PORT or ray://HOST:PORT",
    )
    tokenize.set_defaults(run=partial(_run, partial(_tokenize, make_cluster), open_engines))

    detokenize = commands.add_parser(
        "detokenize", parents=parents, help="turn token shards back into images"
    )
    detokenize.add_argument(
        "source", metavar="TOKENS", help="Parquet output of tokenize; a path or a URL"
    )
    detokenize.add_argument(
        "folder",
        metavar="DEST",
        help="folder for the images, a path or a URL; KEY.jpg for each row",
    )
    detokenize.add_argument("-k", type=int, help="number of tokens to decode; default: all")
    detokenize.add_argument(
        "--format", choices=("jpeg", "png", "webp"), default="jpeg", help="default: jpeg"
    )
    detokenize.add_argument(
        "--square",
        action="store_true",
        help="write squares as they are decoded; default: images that were tokenized with "
        "--fit pad get their own proportions back",
    )
    detokenize.set_defaults(run=partial(_run, _detokenize, open_engines))

    verify = commands.add_parser(
        "verify", parents=parents, help="tokenize a sample of a dataset again and compare"
    )
    verify.add_argument(
        "source", metavar="SOURCE", nargs="+", help="the images that were tokenized"
    )
    verify.add_argument("destination", metavar="TOKENS", help="Parquet output of tokenize")
    verify.add_argument(
        "--sample", metavar="N", type=int, default=100, help="number of images; default: 100"
    )
    verify.add_argument("--seed", type=int, default=0, help="seed of the sample; default: 0")
    verify.set_defaults(run=partial(_run, _verify, open_engines))


def _add_source_options(tokenize: argparse.ArgumentParser) -> None:
    tokenize.add_argument(
        "--keep",
        metavar="NAME[,NAME...]",
        action="append",
        default=[],
        help="columns of the source that come with the tokens, such as caption,url: of Parquet, of "
        "a metadata file, of KEY.json, or KEY.txt as caption",
    )
    tokenize.add_argument(
        "--image-column",
        metavar="NAME",
        help="column with the images, or their suffix in tars; default: a usual name",
    )
    tokenize.add_argument(
        "--label-column", metavar="NAME", help="column with the classes; default: a usual name"
    )
    tokenize.add_argument(
        "--key-column", metavar="NAME", help="column with the keys; default: key or __key__"
    )
    tokenize.add_argument(
        "--whole-files",
        action="store_true",
        help="one token shard for each file; default: files of 512 MB and more are cut",
    )


def _source_options(options: argparse.Namespace) -> "SourceOptions":
    from channeltok.datasets import SourceOptions

    names = [name.strip() for text in options.keep for name in text.split(",")]
    return SourceOptions(
        keep=tuple(dict.fromkeys(name for name in names if name)),
        image_column=options.image_column,
        label_column=options.label_column,
        key_column=options.key_column,
        whole_files=options.whole_files,
    )


def _add_view_options(tokenize: argparse.ArgumentParser) -> None:
    tokenize.add_argument(
        "--views",
        metavar="N",
        type=int,
        default=0,
        help="tokenize N random views of each image instead of the image: crops, half of them "
        "mirrored, with the keys KEY@1, KEY@2, ...",
    )
    tokenize.add_argument(
        "--seed", type=int, default=0, help="of --views: the same seed, the same views; default: 0"
    )


@contextmanager
def connect_to_servers(options: argparse.Namespace) -> Iterator[list[Client]]:
    """A client for each address in --server, a list with commas."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(connect(options, server)) for server in options.server.split(",")
        ]


def server_cluster(options: argparse.Namespace) -> "Cluster":
    """A Ray cluster whose workers call the servers of --server, each worker one of them."""
    from channeltok.datasets.on_ray import Cluster

    return Cluster(options.ray, partial(_connect_to_random_server, options))


def _connect_to_random_server(options: argparse.Namespace) -> Client:
    return connect(options, random.choice(options.server.split(",")))


def _run(
    command: Callable[[argparse.Namespace, list[Any]], None],
    open_engines: OpenEngines,
    options: argparse.Namespace,
) -> None:
    """Raises CommandFailed, ChannelTokError, OSError."""
    try:
        from channeltok import datasets
    except ImportError as error:
        raise CommandFailed(
            f"datasets need more packages: pip install 'channeltok[batch]' ({error})"
        ) from error
    try:
        with open_engines(options) as engines:
            command(options, engines)
    except (datasets.DatasetError, ValueError) as error:
        raise CommandFailed(str(error)) from error


def _tokenize(make_cluster: MakeCluster, options: argparse.Namespace, engines: list[Any]) -> None:
    from channeltok import datasets
    from channeltok.datasets.progress import ProgressBar

    cluster = None
    if options.ray is not None:
        try:
            cluster = make_cluster(options)
        except ImportError as error:
            message = f"--ray needs Ray: pip install 'channeltok[ray]' ({error})"
            raise CommandFailed(message) from error
    with ProgressBar() as progress:
        summary = datasets.tokenize(
            options.source,
            options.destination,
            engines,
            k=options.k,
            quality=options.quality,
            fit=options.fit,
            tokenizer=options.tokenizer,
            container=options.format,
            max_rejects=options.max_rejects,
            retry_rejects=options.retry_rejects,
            patience=options.patience,
            part=options.part,
            source_options=_source_options(options),
            views=options.views,
            seed=options.seed,
            listener=progress,
            cluster=cluster,
        )
    print(_describe(summary, options.destination))


def _detokenize(options: argparse.Namespace, engines: list[Any]) -> None:
    from channeltok import datasets

    count = datasets.detokenize(
        options.source,
        options.folder,
        engines[0],
        k=options.k,
        format=options.format,
        square=options.square,
    )
    print(f"{options.folder}: {count:,} images")


def _verify(options: argparse.Namespace, engines: list[Any]) -> None:
    from channeltok import datasets

    result = datasets.verify(
        options.source, options.destination, engines[0], sample=options.sample, seed=options.seed
    )
    print(
        f"{options.destination}: {result.images:,} images tokenized again, "
        f"{len(result.different)} differ, {len(result.missing)} missing from the source"
    )
    if bad_keys := [*result.different, *result.missing]:
        raise CommandFailed(f"the tokens do not match the source, for example {bad_keys[0]}")


def _describe(summary: "Summary", destination: str) -> str:
    rejects = f"; {summary.rejects} rejects in .channeltok/rejects.jsonl" if summary.rejects else ""
    if summary.skipped:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in summary.skipped.items())
        rejects += f"; skipped: {kinds}"
    if summary.done_before == summary.shards:
        return (
            f"{destination}: all {summary.shards} shards were done before, "
            f"{summary.images:,} images{rejects}; nothing to do"
        )
    rate = summary.new_images / max(summary.seconds, 1e-9)
    length = (
        f"{summary.lengths['mean_k']:.1f} tokens on average"
        if summary.lengths
        else f"{summary.k} tokens each"
    )
    return (
        f"{destination}: {summary.images:,} images, {length} by {summary.tokenizer} "
        f"{summary.fingerprint}; {summary.new_images:,} new, in {summary.seconds:.1f} s "
        f"({rate:.0f}/s){rejects}{_describe_lengths(summary)}"
    )


def _describe_lengths(summary: "Summary") -> str:
    """A histogram of k, and what one k for all images would have cost."""
    if not (lengths := summary.lengths):
        return ""
    most = max(lengths["images_by_k"].values())
    lines = [
        f"k {k:5}  {count:9,}  {'#' * round(40 * count / most)}"
        for k, count in lengths["images_by_k"].items()
    ]
    lines.append(f"{lengths['bytes']:,} bytes of ids")
    if fixed := lengths["fixed_k_same_reached"]:
        reached = f"{lengths['reached']:,} images reach {summary.quality}"
        lines.append(f"{reached}, as many as with {_describe_fixed_k(fixed)}")
    same_ssim = _describe_fixed_k(lengths["fixed_k_same_ssim"])
    lines.append(f"mean SSIM {lengths['mean_ssim']:.3f}, the same as with {same_ssim}")
    return "".join(f"\n  {line}" for line in lines)


def _describe_fixed_k(fixed: dict[str, Any]) -> str:
    saved = fixed["saved"]
    more_or_fewer = "fewer" if saved >= 0 else "more"
    return f"a fixed k = {fixed['k']:.0f}, in {abs(saved):.1%} {more_or_fewer} bytes"

"""Tokenize shards on the machines of a Ray cluster, each worker with an engine of its own."""

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import ray

from channeltok.datasets.errors import DestinationError, EngineGone
from channeltok.datasets.ledger import Entry
from channeltok.datasets.retries import Patience, judge
from channeltok.datasets.shard import Engine, ShardTokenizer
from channeltok.datasets.sources import Shard
from channeltok.loopback import proxy_options

CONNECT_SECONDS = 5.0


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster, and how its workers get their engines.

    Attributes:
        address: as `ray.init` takes it: "auto", HOST:PORT, "ray://HOST:PORT".
        make_engine: called once in each worker; must be picklable.
        workers: number of workers, one core each; None for all cores of the cluster.
        import_path: a folder that workers add to their Python path.
    """

    address: str
    make_engine: Callable[[], Engine]
    workers: int | None = None
    import_path: Path | None = None

    def tokenize(
        self, shards: Sequence[Shard], tokenizer: ShardTokenizer, patience: float
    ) -> Iterator[tuple[Shard, Entry | None, str]]:
        """Yield each shard when it is finished, with its entry, or None and the reason.

        A worker that dies is replaced, and its shard is tokenized again.

        Args:
            shards: what to tokenize.
            tokenizer: how.
            patience: seconds for which the engine of a worker may not answer.

        Raises:
            ConnectionError: there is no cluster at `address`; within seconds.
            EngineGone, DestinationError: from a worker; the run ends.
        """
        _check_address(self.address)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        variables = {"PYTHONPATH": str(self.import_path)} if self.import_path else {}
        ray.init(
            self.address,
            runtime_env={"env_vars": variables},
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        try:
            ray.data.DataContext.get_current().enable_progress_bars = False
            resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
            workers = self.workers or max(1, int(resources.get("CPU", 1)))
            results = ray.data.from_items(
                [{"shard": shard} for shard in shards], override_num_blocks=len(shards)
            ).map(
                _Worker,  # type: ignore[arg-type]  # a class here, an actor there
                fn_constructor_args=(self.make_engine, tokenizer, patience),
                concurrency=min(workers, len(shards)),
                num_cpus=1,
            )
            for row in results.iter_rows():
                if row["ends_run"] is not None:
                    raise row["ends_run"]
                yield row["shard"], row["entry"], row["reason"]
        finally:
            ray.shutdown()


class _Worker:
    """A Ray actor: makes its engine once, then tokenizes shard after shard with it."""

    def __init__(
        self, make_engine: Callable[[], Engine], tokenizer: ShardTokenizer, patience: float
    ) -> None:
        self._engine, self._tokenizer = make_engine(), tokenizer
        self._patience = Patience(patience)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        entry, reason, ends_run = None, "", None
        try:
            entry, reason = self._tokenize(row["shard"])
        except (EngineGone, DestinationError) as error:
            ends_run = error
        return {"shard": row["shard"], "entry": entry, "reason": reason, "ends_run": ends_run}

    def _tokenize(self, shard: Shard) -> tuple[Entry | None, str]:
        attempt = 0
        while True:
            answers = self._patience.answers
            try:
                return self._tokenizer.run(shard, self._engine, self._patience), ""
            except DestinationError:
                raise
            except Exception as error:
                verdict = judge(error, attempt, answers, self._patience)
                if not verdict.retry:
                    return None, verdict.reason
                self._patience.check()
                attempt += verdict.counts
                time.sleep(verdict.delay)


def _check_address(address: str) -> None:
    """Raise ConnectionError unless a cluster answers there; Ray itself would wait for minutes."""
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", address)
    target = address.removeprefix("ray://")
    host, colon, port = target.rpartition(":")
    if not colon or not port.isdecimal():
        return  # auto, local: Ray looks on this machine
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        raise ConnectionError(f"no Ray cluster at {address}: {error.strerror or error}") from error
    if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
        return
    # Ray's own ports speak gRPC, too.
    with grpc.insecure_channel(target, options=proxy_options(target)) as channel:
        try:
            grpc.channel_ready_future(channel).result(CONNECT_SECONDS)
        except grpc.FutureTimeoutError as error:
            raise ConnectionError(
                f"no Ray cluster at {address}: what listens there did not answer within "
                f"{CONNECT_SECONDS:g} s"
            ) from error

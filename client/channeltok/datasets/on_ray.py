"""Tokenize shards on the machines of a Ray cluster, each worker with an engine of its own."""

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from channeltok.datasets.destination import Entry
from channeltok.datasets.shard import Engine, ShardTokenizer, with_retries
from channeltok.datasets.sources import Shard


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
        self, shards: list[Shard], tokenizer: ShardTokenizer
    ) -> Iterator[tuple[Shard, Entry | None, str]]:
        """Yield each shard when it is finished, with its entry, or None and the reason.

        A worker that dies is replaced, and its shard is tokenized again. Raises ConnectionError
        if there is no cluster at `address`.
        """
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
                fn_constructor_args=(self.make_engine, tokenizer),
                concurrency=min(workers, len(shards)),
                num_cpus=1,
            )
            for row in results.iter_rows():
                yield row["shard"], row["entry"], row["reason"]
        finally:
            ray.shutdown()


class _Worker:
    """A Ray actor: makes its engine once, then tokenizes shard after shard with it."""

    def __init__(self, make_engine: Callable[[], Engine], tokenizer: ShardTokenizer) -> None:
        self._engine, self._tokenizer = make_engine(), tokenizer

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        shard: Shard = row["shard"]
        entry, reason = with_retries(lambda attempt: self._tokenizer.run(shard, self._engine))
        return {"shard": shard, "entry": entry, "reason": reason}

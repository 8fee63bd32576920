"""Shards spread over the machines of a Ray cluster: the same `Job.do` for each, on an engine of the worker's own."""

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from channeltok.datasets.destination import Entry
from channeltok.datasets.shard import Engine, Job, patiently
from channeltok.datasets.sources import Shard


@dataclass(frozen=True)
class Cluster:
    """address: as `ray.init` takes it: "auto", HOST:PORT, "ray://HOST:PORT". make_engine: called once in each worker; can be pickled.

    workers: how many, each on one core; None for as many as the cluster has cores. import_path: a folder that workers import from beside
    what they have installed.
    """

    address: str
    make_engine: Callable[[], Engine]
    workers: int | None = None
    import_path: Path | None = None

    def done(self, shards: list[Shard], job: Job) -> Iterator[tuple[Shard, Entry | None, str]]:
        """Each shard as it is done: its entry, or None and why not. A worker that dies is replaced, and its shard done again.

        Raises ConnectionError where there is no cluster at `address`.
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
            workers = self.workers or max(1, int(ray.cluster_resources().get("CPU", 1)))  # type: ignore[no-untyped-call]
            done = ray.data.from_items(
                [{"shard": shard} for shard in shards], override_num_blocks=len(shards)
            ).map(
                _Worker,  # type: ignore[arg-type]  # a class here, an actor there
                fn_constructor_args=(self.make_engine, job),
                concurrency=min(workers, len(shards)),
                num_cpus=1,
            )
            for row in done.iter_rows():
                yield row["shard"], row["entry"], row["why"]
        finally:
            ray.shutdown()


class _Worker:
    """An actor: makes its engine once, and then does shard after shard with it."""

    def __init__(self, make_engine: Callable[[], Engine], job: Job) -> None:
        self._engine, self._job = make_engine(), job

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        shard: Shard = row["shard"]
        entry, why = patiently(lambda attempt: self._job.do(shard, self._engine))
        return {"shard": shard, "entry": entry, "why": why}

"""Throughput of an ONNX graph run in this process, without a service: the benchmarks' baseline."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from export.triton import python_backend
from service.engine.repository import engine_of, parse_config
from service.machine import cores
from service.settings import Settings

REPOSITORY = Path("model_repository")
CORES = cores()


@dataclass(frozen=True)
class Arrangement:
    """`sessions` in parallel, each on `threads` threads, with `batch` images per inference."""

    sessions: int
    threads: int
    batch: int

    def __str__(self) -> str:
        return f"{self.sessions} sessions x {self.threads} threads x batch {self.batch}"


ARRANGEMENTS = [
    Arrangement(sessions, CORES // sessions, batch)
    for sessions in (1, CORES)
    for batch in (1, 4, 8, 16)
]


class BareGraph:
    """A graph on the engine the service would choose. inputs: a batch of images or ids."""

    def __init__(self, graph: Path, inputs: NDArray[Any]) -> None:
        self.engine = engine_of(parse_config(graph.parents[1]), Settings())
        self._graph = graph
        self._inputs = inputs

    def throughput(self, arrangement: Arrangement, seconds: float) -> tuple[float, float]:
        """(images/s, CPU seconds per image)"""
        engine = (*self.engine, arrangement.threads, arrangement.batch)
        loaded = [python_backend.load(self._graph, *engine) for _ in range(arrangement.sessions)]
        feed = {loaded[0][0][0]: self._inputs[: arrangement.batch]}
        sessions = [run for _, _, run in loaded]
        for run in sessions:
            run(feed)
        deadline = time.perf_counter() + seconds

        def loop(run: Callable[[dict[str, Any]], object]) -> int:
            images = 0
            while time.perf_counter() < deadline:
                run(feed)
                images += arrangement.batch
            return images

        cpu, started = time.process_time(), time.perf_counter()
        with ThreadPoolExecutor(arrangement.sessions) as pool:
            images = sum(pool.map(loop, sessions))
        return images / (time.perf_counter() - started), (time.process_time() - cpu) / images

    def best(self) -> Arrangement:
        """The fastest arrangement, by two trials of each in turns, of a second each.

        The better trial counts: what else runs on the machine only makes one slower.
        """
        trials: dict[Arrangement, float] = {}
        for arrangement in 2 * ARRANGEMENTS:
            rate, _ = self.throughput(arrangement, 1.0)
            trials[arrangement] = max(rate, trials.get(arrangement, 0.0))
        return max(trials, key=lambda arrangement: trials[arrangement])

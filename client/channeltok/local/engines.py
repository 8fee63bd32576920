"""Threads that run graphs, each on engines of its own."""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from channeltok.errors import InvalidInput

ENGINES = ("onnxruntime", "openvino", "torch")
PRECISIONS = ("f32", "bf16", "int8")
# Images of one run. More are hardly faster: docs/decisions/0025.
BATCH_SIZE = 4
# Graphs of so many bytes gain nothing from a batch, which takes memory (as in Triton).
_UNBATCHED_BYTES = 64_000_000
# Held while a thread loads a graph and runs it for the first time: OpenVINO's binding then fills
# tables, and two threads that do so at once deadlock with the GIL (OpenVINO 2026.4).
_FIRST_RUN = threading.Lock()
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Engine:
    """What computes a graph.

    name: onnxruntime, openvino or torch. precision: f32; OpenVINO also has bf16, and int8 where the
    graph's folder holds `model_int8.onnx`.

    Raises InvalidInput (BAD_REQUEST) for any other.
    """

    name: str = "onnxruntime"
    precision: str = "f32"

    def __post_init__(self) -> None:
        if self.name not in ENGINES:
            raise InvalidInput(
                "BAD_REQUEST", f"engine is one of {', '.join(ENGINES)}, not {self.name!r}"
            )
        if self.precision not in PRECISIONS:
            raise InvalidInput(
                "BAD_REQUEST",
                f"precision is one of {', '.join(PRECISIONS)}, not {self.precision!r}",
            )
        if self.precision != "f32" and self.name != "openvino":
            raise InvalidInput(
                "BAD_REQUEST",
                f"engine {self.name} computes in f32, not in {self.precision}: openvino does",
            )


class EnginePool:
    """Threads that run graphs. Each loads its own engines, of one thread, when it needs them.

    So runs the fastest arrangement of bare graphs on a processor (docs/decisions/0059).
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="channeltok-engine")
        self._loaded = threading.local()

    def close(self) -> None:
        """Stop the threads; work that has not begun is dropped."""
        self._pool.shutdown(cancel_futures=True)

    def map(
        self, source: Iterable[Item], work: Callable[[list[Item]], list[Result]]
    ) -> Generator[Result, None, None]:
        """Call `work` on batches of `source` in the threads; yields results in order.

        Reads only so far ahead that no thread waits for its next batch.
        """
        items = iter(source)
        running: deque[Future[list[Result]]] = deque()
        try:
            while True:
                while len(running) <= 2 * self.threads and (
                    batch := list(islice(items, BATCH_SIZE))
                ):
                    running.append(self._pool.submit(work, batch))
                if not running:
                    return
                yield from running.popleft().result()
        finally:
            for future in running:
                future.cancel()

    def run(self, graph: Path, role: str, engine: Engine, batch: NDArray[Any]) -> NDArray[Any]:
        """Run a graph on this thread's engine; only for `work` of `map`.

        batch: uint8 [n, S, S, 3] to int32 [n, max_tokens] for the role encode, int32 [n, budget] to
        uint8 [n, S, S, 3] for decode.
        """
        loaded: dict[Any, Callable[[NDArray[Any]], NDArray[Any]]] = self._loaded.__dict__
        key = str(graph), role, engine
        if key in loaded:
            return loaded[key](batch)
        with _FIRST_RUN:
            loaded[key] = _load(graph, role, engine)
            return loaded[key](batch)


def _load(graph: Path, role: str, engine: Engine) -> Callable[[NDArray[Any]], NDArray[Any]]:
    if engine.name == "torch":
        from tokenizer.module import load

        return load(graph).on_arrays(role)
    from export.triton.python_backend import load as load_graph

    batch = BATCH_SIZE if graph.stat().st_size < _UNBATCHED_BYTES else 1
    try:
        (name, *_), _, run = load_graph(graph, engine.name, engine.precision, 1, batch)
    except ModuleNotFoundError as error:
        raise ImportError(f"engine {engine.name} is missing: pip install {engine.name}") from error
    return lambda array: _in_batches(lambda part: run({name: part})[0], array, batch)


def _in_batches(
    run: Callable[[NDArray[Any]], NDArray[Any]], array: NDArray[Any], size: int
) -> NDArray[Any]:
    if len(array) <= size:
        return run(array)
    return np.concatenate([run(array[at : at + size]) for at in range(0, len(array), size)])

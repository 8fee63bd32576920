"""Several gateway processes on the same two ports, in front of one Triton: `--workers`.

This process starts Triton and heals it, starts the workers and replaces those that die, and passes SIGTERM on to them. A worker is
`python -m service` with a Triton elsewhere; the system spreads connections over them (SO_REUSEPORT). They count into one folder, so that
whichever of them answers /metrics answers for all.
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable

import structlog
from prometheus_client import multiprocess

from service.engine.embedded_triton import EmbeddedTriton, die_with_parent
from service.engine.supervisor import Supervisor
from service.errors import CannotStart
from service.gateway import bind, say_ready
from service.observability import metrics
from service.settings import Settings
from service.triton.client import Triton
from service.triton.health import EngineHealth

log = structlog.get_logger()
PATIENCE_SECONDS = 4.0  # with a worker that gives no sign of life, twice
LAST_SECONDS = 10.0  # beyond the drain, until a worker is killed


async def serve(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT. Raises CannotStart."""
    started = time.monotonic()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        # Held, but never listened on: so that the ports are known, and nobody else's, before the first worker has them.
        rest_socket = stack.enter_context(
            bind(settings.host, settings.rest_port, "REST", reuse=True)
        )
        grpc_socket = stack.enter_context(
            bind(settings.host, settings.grpc_port, "gRPC", reuse=True)
        )
        shared: dict[str, str | int] = {
            "rest_port": rest_socket.getsockname()[1],
            "grpc_port": grpc_socket.getsockname()[1],
        }
        health = EngineHealth()
        if settings.triton_url is None:
            embedded = EmbeddedTriton(settings)
            triton = Triton(embedded.url)
            stack.push_async_callback(triton.close)
            stack.push_async_callback(embedded.stop)
            health = triton.health
            await embedded.start(triton)
            watch = asyncio.create_task(Supervisor(triton, embedded, settings).watch())
            stack.callback(watch.cancel)
            shared |= {"triton_url": embedded.url, "triton_metrics_url": embedded.metrics_url}
        workers = [
            _Worker(_environment(settings, shared), health.suspect) for _ in range(settings.workers)
        ]
        keepers = [asyncio.create_task(worker.keep()) for worker in workers]
        stopping = asyncio.create_task(stop.wait())
        ready = asyncio.create_task(_all_ready(workers))
        await asyncio.wait([stopping, ready, *keepers], return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            say_ready(
                settings,
                int(shared["rest_port"]),
                int(shared["grpc_port"]),
                time.monotonic() - started,
            )
            await stopping
        for keeper in keepers:
            if keeper.done():
                keeper.result()  # raises what the worker said when it could not start
            keeper.cancel()
        await asyncio.gather(
            *(
                worker.stop(settings.drain_delay_seconds + settings.drain_seconds + LAST_SECONDS)
                for worker in workers
            )
        )
    log.info("stopped")


def _environment(settings: Settings, shared: dict[str, str | int]) -> dict[str, str]:
    """Of a worker: our settings, and its share of what is counted by process."""

    def share(total: int) -> int:
        return max(1, total // settings.workers)

    own = {
        "workers": 1,
        "reuse_port": True,
        "report": True,
        "max_in_flight": share(settings.places),
        "max_generations": share(settings.generation_places),
        "max_queue_size": share(settings.max_queue_size),
        "image_threads": share(settings.image_threads),
        "max_connections": share(settings.max_connections),
    }
    values = settings.model_dump(mode="json", exclude_none=True) | shared | own
    return {f"CHANNELTOK_{name.upper()}": str(value) for name, value in values.items()}


async def _all_ready(workers: "list[_Worker]") -> None:
    for worker in workers:
        await worker.ready.wait()


class _Worker:
    """One gateway process. ready: set once it served. suspect: is told of a model that failed its callers, and of when that was."""

    def __init__(self, environment: dict[str, str], suspect: Callable[[str, float], None]) -> None:
        self.ready = asyncio.Event()
        self._environment = environment
        self._suspect = suspect
        self._process: asyncio.subprocess.Process | None = None

    async def keep(self) -> None:
        """Start it, and start it again whenever it ends. Raises CannotStart when it ends before it ever was ready."""
        while True:
            self._process = await asyncio.create_subprocess_exec(
                *die_with_parent(sys.executable, "-m", "service"),
                env={**os.environ, **self._environment},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is ours to pass on
            )
            began = time.monotonic()
            await self._listen(self._process)
            code = await self._process.wait()
            multiprocess.mark_process_dead(self._process.pid)
            if not self.ready.is_set():
                raise CannotStart(
                    f"a worker ended with exit code {code} while starting; what it said is above"
                )
            metrics.ENGINE_RESTARTS.labels("worker").inc()
            log.error("worker_ended", pid=self._process.pid, exit_code=code)
            await asyncio.sleep(
                max(0.0, 1.0 - (time.monotonic() - began))
            )  # no storm of those that end at once

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        """To the end of its output. It is killed when its signs of life stop."""
        assert process.stdout is not None
        patience: float | None = None  # until the first: to import and connect takes its time
        misses = 0
        while misses < 2:  # the first may be due to our own standing still
            try:
                line = await asyncio.wait_for(process.stdout.readline(), patience)
            except TimeoutError:
                misses += 1
                continue
            misses = 0
            match line.decode().split():
                case ["ready", *_]:
                    self.ready.set()
                case ["alive"]:
                    patience = PATIENCE_SECONDS
                case ["suspect", model, sent]:
                    self._suspect(model, float(sent))
            if not line:
                return
        log.error("worker_stands_still", pid=process.pid)
        process.kill()

    async def stop(self, seconds: float) -> None:
        """SIGTERM; after `seconds` SIGKILL."""
        if self._process is None or self._process.returncode is not None:
            return
        self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), seconds)
        except TimeoutError:
            log.warning(
                "worker_killed", pid=self._process.pid, why=f"did not stop within {seconds:g} s"
            )
            self._process.kill()
            await self._process.wait()

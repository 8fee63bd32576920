"""Several gateway processes on the same two ports, in front of one Triton: `--workers`.

The parent starts and heals Triton, starts the workers, replaces those that end or hang, and passes
SIGTERM on to them. A worker is `python -m service` with a Triton elsewhere; the kernel spreads
connections over them (SO_REUSEPORT). They count into one folder, so any of them answers /metrics
for all.
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import structlog

from service import machine, systemd, worker_pipe
from service.core.memory import SPARE_SHARE
from service.engine.embedded_triton import EmbeddedTriton
from service.engine.supervisor import Supervisor
from service.errors import CannotStart
from service.observability import metrics, metrics_folder
from service.ports import bind_all, print_ready, share
from service.settings import Settings
from service.triton.client import Triton
from service.triton.health import EngineHealth

log = structlog.get_logger()
PATIENCE_SECONDS = 4.0  # with a silent worker, twice
KILL_MARGIN_SECONDS = 10.0  # beyond the drain, until a worker is killed
MIN_LIFE_SECONDS = 1.0  # a worker that ends sooner is not replaced before
# Runs in the child before its program: prctl(PR_SET_PDEATHSIG, SIGKILL). Popen's preexec_fn would
# do the same, but is not safe in a process with threads.
_DIE_WITH_PARENT = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execv(sys.argv[1], sys.argv[1:])"
)


async def serve(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT. Raises CannotStart, CannotContinue."""
    started = time.monotonic()
    stop = asyncio.Event()
    watch: asyncio.Task[None] | None = None
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        # Bound, but never listened on: so the ports are known and ours before a worker has them.
        rest_sockets = bind_all(settings.host, settings.rest_port, "REST")
        grpc_sockets = bind_all(settings.host, settings.grpc_port, "gRPC")
        for bound in (*rest_sockets, *grpc_sockets):
            share(stack.enter_context(bound))
        rest_port, grpc_port = (
            sockets[0].getsockname()[1] for sockets in (rest_sockets, grpc_sockets)
        )
        shared: dict[str, str | int] = {"rest_port": rest_port, "grpc_port": grpc_port}
        health = EngineHealth()
        if settings.triton_url is None:
            embedded = EmbeddedTriton(settings)
            triton = Triton(embedded.url)
            stack.push_async_callback(triton.close)
            stack.push_async_callback(embedded.stop)
            health = triton.health
            await embedded.start(triton)
            watch = asyncio.create_task(Supervisor(triton, embedded, settings).watch(stop))
            stack.callback(watch.cancel)
            shared |= {"triton_url": embedded.url, "triton_metrics_url": embedded.metrics_url}
        stack.callback(asyncio.create_task(metrics_folder.keep()).cancel)
        # The workers share what Triton and this process leave.
        in_use = await asyncio.to_thread(machine.memory_in_use)
        left = settings.memory - int(in_use * (1 + SPARE_SHARE))
        shared["max_memory"] = max(2**20, left // settings.workers)
        workers = [
            _Worker(str(number), _environment(settings, shared), health.suspect)
            for number in range(1, settings.workers + 1)
        ]
        keepers = [asyncio.create_task(worker.keep()) for worker in workers]
        stopping = asyncio.create_task(stop.wait())
        ready = asyncio.create_task(_all_ready(workers))
        await asyncio.wait([stopping, ready, *keepers], return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            print_ready(settings, rest_port, grpc_port, time.monotonic() - started)
            await stopping
            systemd.notify("STOPPING=1")
        for keeper in keepers:
            if keeper.done() and not stop.is_set():
                keeper.result()  # raises CannotStart of a worker that did not start
            keeper.cancel()
        drain_seconds = settings.drain_delay_seconds + settings.drain_seconds
        await asyncio.gather(
            *(worker.stop(drain_seconds + KILL_MARGIN_SECONDS) for worker in workers)
        )
    log.info("stopped")
    if watch is not None:
        with contextlib.suppress(asyncio.CancelledError):
            await watch


def _environment(settings: Settings, shared: dict[str, str | int]) -> dict[str, str]:
    """Environment of a worker: our settings, with its share of the limits per process."""

    def share(total: int) -> int:
        return max(1, total // settings.workers)

    own = {
        "workers": 1,
        "max_generations": share(settings.generation_permits),
        "max_queue_size": share(settings.max_queue_size),
        "image_workers": share(settings.image_workers),
        "max_connections": share(settings.max_connections),
    }
    if settings.max_in_flight is not None:
        own["max_in_flight"] = share(settings.max_in_flight)
    values = settings.model_dump(mode="json", exclude_none=True) | shared | own
    return {f"CHANNELTOK_{name.upper()}": _text(value) for name, value in values.items()}


def _text(value: Any) -> str:
    """A setting's value, as an environment variable has it."""
    return ",".join(value) if isinstance(value, list) else str(value)


async def _all_ready(workers: "list[_Worker]") -> None:
    for worker in workers:
        await worker.ready.wait()


class _Worker:
    """One gateway process. ready: set once the first one of it serves calls.

    name: of its metrics. suspect: called with a model that failed a caller of the worker, and the
    time of that request.
    """

    def __init__(
        self, name: str, environment: dict[str, str], suspect: Callable[[str, float], None]
    ) -> None:
        self.ready = asyncio.Event()
        self._name = name
        self._environment = environment | {metrics_folder.NAME: name}
        self._suspect = suspect
        self._process: asyncio.subprocess.Process | None = None

    async def keep(self) -> None:
        """Start the process, and a new one whenever it ends.

        Raises CannotStart when it ends before it was ever ready.
        """
        while True:
            began = time.monotonic()
            process, pipe = await self._start()
            self._process = process
            await self._follow(process, pipe)
            code = await process.wait()
            metrics_folder.forget(self._name)
            if not self.ready.is_set():
                raise CannotStart(
                    f"a worker ended with exit code {code} while starting; its messages are above"
                )
            metrics.ENGINE_RESTARTS.labels("worker").inc()
            log.error("worker_ended", pid=process.pid, exit_code=code)
            await asyncio.sleep(max(0.0, MIN_LIFE_SECONDS - (time.monotonic() - began)))

    async def _start(self) -> tuple[asyncio.subprocess.Process, int]:
        """The process, and the read end of its pipe."""
        read_end, write_end = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *_die_with_parent(sys.executable, "-m", __package__),
                env={**os.environ, **self._environment, worker_pipe.PIPE: str(write_end)},
                pass_fds=(write_end,),
                stdin=asyncio.subprocess.DEVNULL,
                start_new_session=True,  # no Ctrl-C from the terminal: the parent passes it on
            )
        finally:
            os.close(write_end)
        return process, read_end

    async def _follow(self, process: asyncio.subprocess.Process, pipe: int) -> None:
        """Act on its events until it ends; kill it when they stop."""
        try:
            async with aclosing(worker_pipe.read_events(pipe, PATIENCE_SECONDS)) as events:
                async for event in events:
                    if event.event == "ready":
                        self.ready.set()
                    elif event.event == "suspect":
                        assert event.model is not None
                        assert event.sent is not None
                        self._suspect(event.model, event.sent)
        except TimeoutError:
            log.error("worker_hangs", pid=process.pid)
            process.kill()

    async def stop(self, seconds: float) -> None:
        """Send SIGTERM, and after `seconds` SIGKILL."""
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


def _die_with_parent(*command: str) -> list[str]:
    """The command, run so that the kernel kills it when its parent dies. It begins with a path."""
    return [sys.executable, "-ISc", _DIE_WITH_PARENT, *command]

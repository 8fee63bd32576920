"""Supervisor: the loops that run readiness.py (poll, probe) and healing.py (repair)."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

import structlog

from service.core.registry import Registry
from service.engine.embedded_triton import EmbeddedTriton
from service.engine.healing import Healer
from service.engine.probe import Probe
from service.engine.readiness import Readiness
from service.errors import CannotContinue, CannotStart, ServiceError
from service.settings import Settings
from service.triton.client import Triton

log = structlog.get_logger()
REPAIR_SECONDS = 0.5  # between looks at the engines' processes, which cost next to nothing
KILL_SECONDS = 0.1  # between looks at the suspected models, a dictionary
MIN_REFRESH_SECONDS = 1.0


class Supervisor:
    """Keeps `registry` and `readiness` up to date while `watch` runs.

    embedded: None for a Triton elsewhere, which is polled and probed but not healed.
    """

    def __init__(self, triton: Triton, embedded: EmbeddedTriton | None, settings: Settings) -> None:
        self.registry = Registry(self._refresh)
        probe = Probe(triton, settings.engine_timeout_seconds, settings.probe_seconds)
        self.readiness = Readiness(triton, embedded, self.registry, probe, settings)
        self._healer = (
            None
            if embedded is None
            else Healer(triton, embedded, self.readiness, settings.engine_timeout_seconds)
        )
        self._probe_seconds = settings.probe_seconds
        self._refreshing = asyncio.Lock()

    async def watch(self, stop: asyncio.Event) -> None:
        """Run until cancelled. Ended by anything else, it is logged, and `stop` is set.

        Nobody would heal engines or notice that they fail, so the service must not stay.
        Raises CannotContinue.
        """
        try:
            await self._watch()
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            log.critical("supervisor_ended", exc_info=error)
            raise CannotContinue("the supervisor ended; why is in the log") from error
        finally:
            stop.set()

    async def _watch(self) -> None:
        """Run all loops, until cancelled or until one of them fails.

        Each task has a loop of its own, because loading can wait long: for an engine that hangs
        while it starts; or, as Triton loads nothing while a hung engine holds the cores (decision
        32), until that one is killed.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._run_every(self._probe_seconds, self._poll))
            group.create_task(self._run_every(self._probe_seconds, self._probe_generators))
            if self._healer is not None:
                group.create_task(self._run_every(self._probe_seconds, self._healer.load_new))
                group.create_task(self._run_every(KILL_SECONDS, self._healer.kill_suspects))
                group.create_task(self._run_every(REPAIR_SECONDS, self._healer.repair))

    async def _run_every(self, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        """Run `work` every so many seconds; when it fails, the service is not ready."""
        while True:
            started = time.monotonic()
            try:
                await work()
            except (ServiceError, CannotStart) as error:
                await self.readiness.set_ready(False, str(error))
            except Exception as error:
                log.exception("supervisor_failed", exc_info=error)
                await self.readiness.set_ready(False, "the supervisor failed")
            await asyncio.sleep(max(0.0, seconds - (time.monotonic() - started)))

    async def _refresh(self) -> None:
        """Poll now; at most once a second."""
        async with self._refreshing:
            if time.perf_counter() - self.readiness.polled_at >= MIN_REFRESH_SECONDS:
                with contextlib.suppress(ServiceError):
                    if self._healer is not None:
                        await self._healer.load_new()
                    await self._poll()

    async def _poll(self) -> None:
        if self._healer is not None:
            await self._healer.retire(self.registry.current)
        self._confirm(await self.readiness.poll())

    async def _probe_generators(self) -> None:
        self._confirm(await self.readiness.probe_generators())

    def _confirm(self, working: set[str]) -> None:
        if self._healer is not None:
            self._healer.confirm(working)

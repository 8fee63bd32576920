"""Heals the embedded Triton: restarts the server, kills and reloads failing engines.

Failing engines crash, hang or return wrong results. The supervisor decides when each repair runs.
"""

import asyncio
import time
from collections.abc import Callable, Iterable

import structlog

from service.core.registry import ServedModels
from service.engine.embedded_triton import EmbeddedTriton
from service.engine.readiness import Readiness
from service.observability import metrics
from service.triton.client import Triton

log = structlog.get_logger()
FIRST_PAUSE_SECONDS = 1.0  # after the first try; each further one doubles it
LONGEST_PAUSE_SECONDS = 30.0


class Healer:
    """Every method looks once and acts once; the supervisor calls them again and again."""

    def __init__(
        self,
        triton: Triton,
        embedded: EmbeddedTriton,
        readiness: Readiness,
        engine_timeout_seconds: float,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._triton = triton
        self._embedded = embedded
        self._readiness = readiness
        self._engine_timeout = engine_timeout_seconds
        self._clock = clock
        self._backoff = _Backoff(clock)
        self._loading = asyncio.Lock()  # a restart loads everything: `load_new` waits for it

    def confirm(self, working: Iterable[str]) -> None:
        """These models passed their probe: when they fail next, repair them at once."""
        for name in working:
            self._backoff.reset(name)

    async def load_new(self) -> None:
        """Load models that are new in the repository."""
        async with self._loading:
            if self._embedded.failure() is None and self._backoff.due("repository"):
                self._backoff.tried("repository")
                if await self._embedded.load_new(self._triton):
                    self._backoff.reset("repository")

    async def retire(self, served: ServedModels) -> None:
        """Unload models that were replaced in the repository long enough ago.

        Raises EngineUnavailable.
        """
        current = filter(served.is_current, served.tokenizers)
        in_use = {model.name for tokenizer in current for model in tokenizer.models}
        in_use |= {generator.model.name for generator in served.current_generators}
        await self._embedded.retire(self._triton, in_use)

    async def kill_suspects(self) -> None:
        """Kill engines that failed callers, so that `repair` reloads them.

        Such a model may pass its probe, because another of its processes works, and Triton calls
        all of them ready. Requests sent before a model was loaded failed with its predecessor.
        """
        suspected_at = self._triton.health.suspected_at
        for name, loaded_at in self._embedded.loaded.items():
            if (
                suspected_at.get(name, loaded_at) > loaded_at
                and self._backoff.due(name)
                and name not in self._embedded.broken()
            ):
                log.warning("killing", model=name)
                self._embedded.kill(name)

    async def repair(self) -> None:
        """Restart tritonserver if it failed, and reload models whose processes ended.

        Raises CannotStart, EngineUnavailable.
        """
        await self._repair_server()
        for name in self._embedded.broken():
            if self._backoff.due(name):
                self._backoff.tried(name)
                log.warning("reloading", model=name)
                metrics.ENGINE_RESTARTS.labels(name).inc()
                await self._embedded.reload(self._triton, name)

    async def _repair_server(self) -> None:
        failure, since = self._embedded.failure(), self._readiness.unresponsive_since
        if failure is None and since is not None and self._clock() - since > self._engine_timeout:
            failure = "tritonserver does not answer"
        if failure is None:
            return
        await self._readiness.set_ready(False, failure)
        if self._backoff.due("triton"):
            self._backoff.tried("triton")
            log.warning("restarting", component="triton", why=failure)
            metrics.ENGINE_RESTARTS.labels("triton").inc()
            async with self._loading:
                await self._embedded.restart(self._triton)
            self._readiness.unresponsive_since = None
            self._backoff.reset("triton")


class _Backoff:
    """When to try a repair: the first time at once, then after pauses that double."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._tries: dict[str, int] = {}
        self._not_before: dict[str, float] = {}

    def due(self, name: str) -> bool:
        return self._clock() >= self._not_before.get(name, 0.0)

    def tried(self, name: str) -> None:
        tries = self._tries.get(name, 0)
        pause = min(FIRST_PAUSE_SECONDS * 2**tries, LONGEST_PAUSE_SECONDS)
        self._tries[name], self._not_before[name] = tries + 1, self._clock() + pause

    def reset(self, name: str) -> None:
        """It works again: its next repair is due at once."""
        self._tries.pop(name, None)
        self._not_before.pop(name, None)

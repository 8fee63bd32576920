"""Keeps the engine served: learns what Triton serves, proves it by real inferences, restarts what died."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from service import metrics
from service.catalogue import Catalogue, Tokenizer
from service.embedded_triton import CannotStart, EmbeddedTriton
from service.errors import Overloaded, ServiceError
from service.settings import Settings
from service.tokenization import Tokenization
from service.triton import Triton

log = structlog.get_logger()
PROBE_TIMEOUT = 10.0  # under load a probe waits in the engine's queue like everybody; longer than this is not load


class Supervisor:
    """`ready` turns true when every model of every tokenizer answered a real inference; `announce` is told of each turn."""

    def __init__(
        self,
        triton: Triton,
        embedded: EmbeddedTriton | None,
        tokenization: Tokenization,
        settings: Settings,
        announce: Callable[[bool], Awaitable[None]],
    ) -> None:
        self.ready = False
        self._triton = triton
        self._embedded = embedded
        self._tokenization = tokenization
        self._settings = settings
        self._announce = announce

    async def watch(self) -> None:
        """A look every `probe_seconds`, for ever."""
        while True:
            started = time.monotonic()
            try:
                await self._look()
            except (ServiceError, CannotStart) as error:
                await self._turn(False, str(error))
            except Exception as error:
                log.exception("supervisor_failed", exc_info=error)
                await self._turn(False, "the supervisor failed")
            await asyncio.sleep(max(0.0, self._settings.probe_seconds - (time.monotonic() - started)))

    async def _look(self) -> None:
        if self._embedded is not None and self._embedded.exit_code is not None:
            await self._turn(False, f"tritonserver ended with exit code {self._embedded.exit_code}")
            metrics.ENGINE_RESTARTS.labels("triton").inc()
            await self._embedded.restart(self._triton)
            self._triton.suspects.clear()
        self._tokenization.catalogue = Catalogue(await self._triton.models(), self._settings.default_tokenizer)
        tokenizers = self._tokenization.catalogue.tokenizers
        metrics.TOKENIZER_INFO.clear()
        for tokenizer in tokenizers:
            metrics.TOKENIZER_INFO.labels(tokenizer.name, tokenizer.fingerprint).set(1)
        failures = [failure for tokenizer in tokenizers for failure in await self._probe(tokenizer)]
        await self._turn(bool(tokenizers) and not failures, "; ".join(failures) or "Triton serves no tokenizer")
        # A model that failed callers may still answer the probe: one of its instances is alive.
        failing = self._triton.suspects.copy()
        self._triton.suspects.clear()
        for name in failing:
            await self._reload(name)

    async def _probe(self, tokenizer: Tokenizer) -> list[str]:
        failures = []
        for model, error in await self._tokenization.probe(tokenizer, PROBE_TIMEOUT):
            # A full queue is load, not a fault: the engine is at work.
            healthy = error is None or isinstance(error, Overloaded)
            metrics.ENGINE_READY.labels(model.name).set(healthy)
            metrics.ENGINE_RESTARTS.labels(model.name)  # from 0 on
            if not healthy:
                failures.append(f"{model.name}: {error}")
        return failures

    async def _reload(self, name: str) -> None:
        # A dead stub leaves its model "ready" in Triton's eyes; unloading and loading it starts new ones.
        if self._embedded is not None and self._embedded.exit_code is None:
            log.warning("reloading", model=name)
            metrics.ENGINE_RESTARTS.labels(name).inc()
            await self._embedded.reload(self._triton, name)

    async def _turn(self, ready: bool, why_not: str) -> None:
        if ready != self.ready:
            log.info("ready") if ready else log.warning("not_ready", why=why_not)
            self.ready = ready
            metrics.READY.set(ready)
            await self._announce(ready)

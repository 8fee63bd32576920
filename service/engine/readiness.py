"""Readiness: whether the service is ready, from polls of Triton and probes of its models.

Models that work are published in the registry.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

import structlog

from service.core.registry import Registry, ServedGenerator, ServedModels, ServedTokenizer
from service.engine.embedded_triton import EmbeddedTriton
from service.engine.probe import Probe
from service.errors import ServiceError
from service.observability import metrics
from service.settings import Settings
from service.triton.client import Triton
from service.triton.models import Model

log = structlog.get_logger()
SAME_REASON_SECONDS = 60.0  # between two log lines that give the same reason for not being ready


class Readiness:
    """Ready once every model of every current tokenizer has passed its probe.

    polled_at: start of the latest poll, on `clock`.
    unresponsive_since: start of the first of the polls that Triton has left unanswered; None
    while it answers.
    """

    def __init__(
        self,
        triton: Triton,
        embedded: EmbeddedTriton | None,
        registry: Registry,
        probe: Probe,
        settings: Settings,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.polled_at = -math.inf
        self.unresponsive_since: float | None = None
        self._triton = triton
        self._embedded = embedded
        self._registry = registry
        self._probe = probe
        self._settings = settings
        self._clock = clock
        self._ready = asyncio.Event()
        self._listeners: list[Callable[[bool], Awaitable[None]]] = []
        self._known: dict[str, Model] = {}  # every model Triton had, by name, until it is retired
        self._generators: list[ServedGenerator] = []  # all that Triton has, verified or not
        self._verified: set[str] = set()  # generator models that passed their latest probe
        self._logged_at: dict[str, float] = {}  # reasons logged within the last minute -> when

    @property
    def ready(self) -> bool:
        """The present state."""
        return self._ready.is_set()

    async def wait(self) -> None:
        """Return once the service is ready."""
        await self._ready.wait()

    def subscribe(self, listener: Callable[[bool], Awaitable[None]]) -> None:
        """Call `listener` with the new state whenever it changes."""
        self._listeners.append(listener)

    async def set_ready(self, ready: bool, why_not: str = "") -> None:
        """Change the state, log it and call the listeners. why_not: the reason when not ready."""
        if not ready:
            self._log_reason(why_not)
        if ready != self.ready:
            if ready:
                log.info("ready")
                self._logged_at.clear()
                self._ready.set()
            else:
                self._ready.clear()
            metrics.READY.set(ready)
            for listener in self._listeners:
                await listener(ready)

    async def poll(self) -> set[str]:
        """Probe the tokenizers Triton has, publish those that work; names of the working models.

        Raises EngineUnavailable when Triton does not answer.
        """
        models = await self._loaded_models()
        models += self._missing_models(models)
        served = self._served_models(models)
        if not self._registry.current.tokenizers:
            # At start callers see what will be served, and that it is not ready yet.
            self._registry.publish(served)
        engines = [model for tokenizer in served.tokenizers for model in tokenizer.models]
        errors = await self._run_probes(self._probe.check, engines)

        def works(tokenizer: ServedTokenizer) -> bool:
            return not any(model.name in errors for model in tokenizer.models)

        # A version that fails does not count while another one of the same name works: callers
        # are sent to that one.
        working = {tokenizer.name for tokenizer in served.tokenizers if works(tokenizer)}
        failing_versions = {
            tokenizer.fingerprint
            for tokenizer in served.tokenizers
            if tokenizer.name in working and not works(tokenizer)
        }
        self._generators = served.generators
        unverified = self._unverified()
        self._registry.publish(
            self._served_models(
                [
                    model
                    for model in models
                    if model.parameters.get("fingerprint") not in failing_versions
                    and model.name not in unverified
                ]
            )
        )
        why_not = [
            f"{model.name}: {errors[model.name]}"
            for model in engines
            if model.name in errors and model.parameters["fingerprint"] not in failing_versions
        ]
        await self.set_ready(
            bool(working) and not why_not, "; ".join(why_not) or "Triton serves no tokenizer"
        )
        return {model.name for model in engines} - errors.keys()

    async def probe_generators(self) -> set[str]:
        """Probe the generators of the latest poll; names of the working models.

        Apart from `poll`, because generators answer slowly. Readiness does not depend on them:
        encode and decode work without.
        """
        models = [generator.model for generator in self._generators]
        errors = await self._run_probes(self._probe.check_generator, models)
        for name, error in errors.items():
            if name in self._verified:
                log.warning("generator_failed", model=name, why=str(error))
        working = {model.name for model in models} - errors.keys()
        self._verified = (self._verified | working) - errors.keys()
        return working

    async def _loaded_models(self) -> list[Model]:
        self.polled_at = self._clock()
        try:
            models = await self._triton.models()
        except ServiceError:
            self.unresponsive_since = self.unresponsive_since or self.polled_at
            if self._embedded is None:
                self._triton.reconnect()
            for name in self._known:
                metrics.ENGINE_READY.labels(name).set(0)
            raise
        self.unresponsive_since = None
        return models

    def _missing_models(self, models: list[Model]) -> list[Model]:
        """Models that the embedded Triton had, has not now, and will have again (a reload, say).

        Callers see that they are down, not that they are unknown. Models that were retired, or
        replaced by a newer version, are forgotten.
        """
        served = self._served_models(models)
        names = {tokenizer.name for tokenizer in served.tokenizers}
        names |= {generator.name for generator in served.generators}
        fingerprints = {model.parameters.get("fingerprint") for model in models}
        missing = []
        for name in self._known.keys() - {model.name for model in models}:
            parameters = self._known[name].parameters
            replaced = (
                _served_name(parameters) in names and parameters["fingerprint"] not in fingerprints
            )
            if replaced or (self._embedded is not None and name not in self._embedded.on_disk()):
                # NaN, because no series shared by several processes can be removed.
                metrics.ENGINE_READY.labels(name).set(math.nan)
                metrics.ENGINE_INFO.labels(name, self._known[name].engine).set(0)
                del self._known[name]
            else:
                metrics.ENGINE_READY.labels(name).set(0)
                if self._embedded is not None:
                    missing.append(self._known[name])
        loaded = {model.name: model for model in models if _served_name(model.parameters)}
        for name, model in loaded.items():
            if name in self._known and self._known[name].engine != model.engine:
                metrics.ENGINE_INFO.labels(name, self._known[name].engine).set(0)
            metrics.ENGINE_INFO.labels(name, model.engine).set(1)
        self._known |= loaded
        return missing

    def _served_models(self, models: list[Model]) -> ServedModels:
        return ServedModels(
            models, self._settings.default_tokenizer, self._settings.default_generator
        )

    def _unverified(self) -> set[str]:
        """Generator models that fail while another version of the same name works."""
        working = {
            generator.name
            for generator in self._generators
            if generator.model.name in self._verified
        }
        return {
            generator.model.name for generator in self._generators if generator.name in working
        } - self._verified

    async def _run_probes(
        self,
        check: Callable[[Model], Awaitable[ServiceError | None]],
        models: Sequence[Model],
    ) -> dict[str, ServiceError]:
        """Errors of the models that fail, by name."""
        errors = {}

        async def probe(model: Model) -> None:
            metrics.ENGINE_RESTARTS.labels(model.name)  # so that the series begins at 0
            error = await check(model)
            metrics.ENGINE_READY.labels(model.name).set(error is None)
            if error is not None:
                errors[model.name] = error

        await asyncio.gather(*map(probe, models))
        return errors

    def _log_reason(self, why_not: str) -> None:
        """Log a new reason at once, the same one again after a minute."""
        now = self._clock()
        self._logged_at = {
            why: at for why, at in self._logged_at.items() if now - at < SAME_REASON_SECONDS
        }
        if why_not not in self._logged_at:
            self._logged_at[why_not] = now
            log.warning("not_ready", why=why_not)


def _served_name(parameters: Mapping[str, str]) -> str | None:
    """Name of the tokenizer or generator that a model belongs to; None for models of others."""
    return parameters.get("tokenizer") or parameters.get("generator")

"""Keeps the engine served: learns what Triton serves, proves it by real inferences, repairs what died, hangs or answers rubbish."""

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable, Mapping

import structlog

from service.core.registry import Registry, ServedGenerator, ServedModels, ServedTokenizer
from service.engine.embedded_triton import EmbeddedTriton
from service.engine.probe import Probe
from service.errors import CannotStart, ServiceError
from service.observability import metrics
from service.settings import Settings
from service.triton.client import Triton
from service.triton.models import Model

log = structlog.get_logger()
REPAIR_SECONDS = 0.5  # between looks at the engine's processes, which cost next to nothing
KILL_SECONDS = 0.1  # between looks at what is suspected, a dictionary
MIN_REFRESH_SECONDS = 1.0
LONGEST_PAUSE = 30.0
REASON_SECONDS = 60.0  # between two log lines that give the same reason for not being ready


class Supervisor:
    """`ready` turns true when every model of every tokenizer answered a real inference.

    registry: what is served, kept up to date here.
    """

    def __init__(
        self,
        triton: Triton,
        embedded: EmbeddedTriton | None,
        settings: Settings,
    ) -> None:
        self.ready = False
        self._triton = triton
        self._embedded = embedded
        self.registry = Registry(self._refresh)
        self._settings = settings
        self._listeners: list[Callable[[bool], Awaitable[None]]] = []
        self._probe = Probe(triton, settings.engine_timeout_seconds, settings.probe_seconds)
        self._repairs = _Repairs()
        self._refreshing = asyncio.Lock()
        self._polled_at = 0.0
        self._unresponsive_since: float | None = (
            None  # when Triton was asked first what it serves and did not say
        )
        self._generators: list[
            ServedGenerator
        ] = []  # all that Triton has, also those that calls are not sent to yet
        self._generating: set[str] = (
            set()
        )  # models of those that answered when they were asked last
        self._logged_at: dict[str, float] = {}  # reasons logged within the last minute -> when
        self._known: dict[
            str, Model
        ] = {}  # models that Triton had, by name, until they are retired
        self._loading = (
            asyncio.Lock()
        )  # what is new is not loaded while Triton is started again, which loads all

    def on_ready_change(self, listener: Callable[[bool], Awaitable[None]]) -> None:
        """Call `listener` with the new state whenever `ready` changes."""
        self._listeners.append(listener)

    async def watch(self) -> None:
        """For ever: a look every `probe_seconds`; with an embedded Triton also one at its repository, and every half second one at its
        processes.

        Each in a loop of its own. What loads models may wait long: for one that hangs while it begins; and, as Triton loads nothing while
        an engine that hangs has the cores (decision 32), for what is suspected to be killed.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._run_every(self._settings.probe_seconds, self._poll))
            group.create_task(self._run_every(self._settings.probe_seconds, self._probe_generators))
            if self._embedded is not None:
                group.create_task(
                    self._run_every(self._settings.probe_seconds, self._load_new, self._embedded)
                )
                group.create_task(
                    self._run_every(KILL_SECONDS, self._kill_suspects, self._embedded)
                )
                group.create_task(self._run_every(REPAIR_SECONDS, self._repair, self._embedded))

    async def _run_every(
        self, seconds: float, work: Callable[..., Awaitable[None]], *args: object
    ) -> None:
        while True:
            started = time.monotonic()
            try:
                await work(*args)
            except (ServiceError, CannotStart) as error:
                await self._set_ready(False, str(error))
            except Exception as error:
                log.exception("supervisor_failed", exc_info=error)
                await self._set_ready(False, "the supervisor failed")
            await asyncio.sleep(max(0.0, seconds - (time.monotonic() - started)))

    async def _refresh(self) -> None:
        """Now instead of when it is time, for a caller who knows of a tokenizer that we do not; once a second at most."""
        async with self._refreshing:
            if time.monotonic() - self._polled_at >= MIN_REFRESH_SECONDS:
                with contextlib.suppress(ServiceError):
                    if self._embedded is not None:
                        await self._load_new(self._embedded)
                    await self._poll()

    async def _poll(self) -> None:
        self._polled_at = time.monotonic()
        if self._embedded is not None:
            await self._retire(self._embedded)
        began = time.perf_counter()
        try:
            models = await self._triton.models()
            self._unresponsive_since = None
        except ServiceError:
            self._unresponsive_since = self._unresponsive_since or began
            if self._embedded is None:
                self._triton.reconnect()
            for name in self._known:
                metrics.ENGINE_READY.labels(name).set(0)
            raise
        models += self._missing_models(models)
        found = self._served_models(models)
        if (
            not self.registry.current.tokenizers
        ):  # at start: callers learn what will be served, and that it is not yet
            self.registry.publish(found)
        looks = list(
            zip(
                found.tokenizers,
                await asyncio.gather(*map(self._probe_tokenizer, found.tokenizers)),
                strict=True,
            )
        )
        # A version that fails is no reason to be not ready while another of the same name works: nobody is sent to it.
        working = {tokenizer.name for tokenizer, failures in looks if not failures}
        left_out = {
            tokenizer.fingerprint
            for tokenizer, failures in looks
            if failures and tokenizer.name in working
        }
        self._generators = found.generators
        unproven = self._unverified()
        served = [
            one
            for one in models
            if one.parameters.get("fingerprint") not in left_out and one.name not in unproven
        ]
        self.registry.publish(self._served_models(served))
        why_not = [
            failure
            for tokenizer, failures in looks
            if tokenizer.fingerprint not in left_out
            for failure in failures
        ]
        await self._set_ready(
            bool(working) and not why_not, "; ".join(why_not) or "Triton serves no tokenizer"
        )

    def _missing_models(self, models: list[Model]) -> list[Model]:
        """What Triton had and has no more is not ready (it is being reloaded, say); what is retired is nothing any more.

        Returned is what our own Triton is to have again: callers are told that it is down, and not that nobody knows it.
        """
        found = self._served_models(models)
        names = {one.name for one in found.tokenizers} | {one.name for one in found.generators}
        fingerprints = {model.parameters.get("fingerprint") for model in models}
        lost = []
        for name in self._known.keys() - {model.name for model in models}:
            facts = self._known[name].parameters
            replaced = _owner(facts) in names and facts["fingerprint"] not in fingerprints
            if replaced or (self._embedded is not None and name not in self._embedded.on_disk()):
                metrics.ENGINE_READY.labels(name).set(
                    math.nan
                )  # no series of several processes can be removed
                del self._known[name]
            else:
                metrics.ENGINE_READY.labels(name).set(0)
                lost += [self._known[name]] if self._embedded is not None else []
        self._known |= {
            model.name: model for model in models if _owner(model.parameters) is not None
        }
        return lost

    def _served_models(self, models: list[Model]) -> ServedModels:
        return ServedModels(
            models, self._settings.default_tokenizer, self._settings.default_generator
        )

    async def _probe_generators(self) -> None:
        """In a loop of its own, because generators answer slowly; and no word on readiness, because single images do without them."""
        models = [generator.model for generator in self._generators]
        for model, error in zip(
            models, await asyncio.gather(*map(self._probe.look_at_generator, models)), strict=True
        ):
            metrics.ENGINE_RESTARTS.labels(model.name)  # from 0 on
            metrics.ENGINE_READY.labels(model.name).set(error is None)
            if error is None:
                self._generating.add(model.name)
                self._repairs.worked(model.name)
            else:
                if model.name in self._generating:
                    log.warning("generator_failed", model=model.name, why=str(error))
                self._generating.discard(model.name)

    def _unverified(self) -> set[str]:
        """Models of generators that do not answer while another version of the same name does: nobody is sent to them."""
        working = {
            generator.name
            for generator in self._generators
            if generator.model.name in self._generating
        }
        return {
            one.model.name for one in self._generators if one.name in working
        } - self._generating

    async def _probe_tokenizer(self, tokenizer: ServedTokenizer) -> list[str]:
        failures = []
        for model, error in zip(
            tokenizer.models,
            await asyncio.gather(*map(self._probe.look, tokenizer.models)),
            strict=True,
        ):
            metrics.ENGINE_READY.labels(model.name).set(error is None)
            metrics.ENGINE_RESTARTS.labels(model.name)  # from 0 on
            if error is None:
                self._repairs.worked(model.name)
            else:
                failures.append(f"{model.name}: {error}")
        return failures

    async def _load_new(self, embedded: EmbeddedTriton) -> None:
        async with self._loading:
            if embedded.failure() is None and self._repairs.due("repository"):
                self._repairs.tried("repository")
                if await embedded.load_new(self._triton):
                    self._repairs.worked("repository")

    async def _retire(self, embedded: EmbeddedTriton) -> None:
        served = self.registry.current
        current = filter(served.is_current, served.tokenizers)
        in_use = {model.name for tokenizer in current for model in tokenizer.models}
        in_use |= {generator.model.name for generator in served.current_generators}
        await embedded.retire(self._triton, in_use)

    async def _repair(self, embedded: EmbeddedTriton) -> None:
        await self._repair_server(embedded)
        await self._repair_models(embedded)

    async def _repair_server(self, embedded: EmbeddedTriton) -> None:
        failure = embedded.failure()
        if (
            failure is None
            and self._unresponsive_since is not None
            and time.perf_counter() - self._unresponsive_since
            > self._settings.engine_timeout_seconds
        ):
            failure = "tritonserver does not answer"
        if failure is not None:
            await self._set_ready(False, failure)
            if self._repairs.due("triton"):
                self._repairs.tried("triton")
                log.warning("restarting", what="triton", why=failure)
                metrics.ENGINE_RESTARTS.labels("triton").inc()
                async with self._loading:
                    await embedded.restart(self._triton)
                self._unresponsive_since = None
                self._repairs.worked("triton")

    async def _kill_suspects(self, embedded: EmbeddedTriton) -> None:
        # A model that failed callers may still answer the probe: one of its processes is alive. And Triton calls all of them ready.
        # What was sent before an engine was loaded failed for the cause of the one before.
        suspects, loaded = self._triton.health.suspected_at, embedded.loaded
        failing = {
            name for name in suspects.keys() & loaded.keys() if suspects[name] > loaded[name]
        }
        for name in failing:
            if self._repairs.due(name) and name not in embedded.broken():
                log.warning("killing", model=name)
                embedded.kill(name)

    async def _repair_models(self, embedded: EmbeddedTriton) -> None:
        for name in embedded.broken():
            if self._repairs.due(name):
                self._repairs.tried(name)
                log.warning("reloading", model=name)
                metrics.ENGINE_RESTARTS.labels(name).inc()
                try:
                    await embedded.reload(self._triton, name)
                finally:
                    self._triton.streams.cancel_all(name)

    async def _set_ready(self, ready: bool, why_not: str) -> None:
        if not ready:
            self._log_reason(why_not)
        if ready != self.ready:
            if ready:
                log.info("ready")
                self._logged_at.clear()
            self.ready = ready
            metrics.READY.set(ready)
            for listener in self._listeners:
                await listener(ready)

    def _log_reason(self, why_not: str) -> None:
        """Log why the service is not ready: a new reason at once, the same one again after a minute."""
        now = time.monotonic()
        self._logged_at = {
            why: at for why, at in self._logged_at.items() if now - at < REASON_SECONDS
        }
        if why_not not in self._logged_at:
            self._logged_at[why_not] = now
            log.warning("not_ready", why=why_not)


def _owner(facts: Mapping[str, str]) -> str | None:
    """The tokenizer or generator that a model belongs to, by name."""
    return facts.get("tokenizer") or facts.get("generator")


class _Repairs:
    """When to try: at once, and after ever longer pauses what does not work in between."""

    def __init__(self) -> None:
        self._tries: dict[str, int] = {}
        self._not_before: dict[str, float] = {}

    def due(self, what: str) -> bool:
        return time.monotonic() >= self._not_before.get(what, 0.0)

    def tried(self, what: str) -> None:
        self._tries[what] = self._tries.get(what, 0) + 1
        self._not_before[what] = time.monotonic() + min(0.5 * 2 ** self._tries[what], LONGEST_PAUSE)

    def worked(self, what: str) -> None:
        """It works again: the next try is due at once."""
        self._tries.pop(what, None)
        self._not_before.pop(what, None)

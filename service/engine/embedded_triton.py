"""Embedded Triton: the models that it serves, from a repository that may change at any time."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil
import structlog
from google.protobuf import json_format
from tritonclient.grpc import model_config_pb2

from service.core.registry import ServedModels
from service.engine.repository import model_folders, read_config, strays
from service.engine.triton_server import TritonServer, runs
from service.errors import CannotStart, EngineUnavailable
from service.settings import Settings
from service.triton.client import Triton
from service.triton.models import is_ours, model_of

log = structlog.get_logger()


@dataclass
class _Engine:
    """Engine processes of a loaded model. since: load time, on the clock.

    killed: by us, to be replaced.
    """

    config: model_config_pb2.ModelConfig
    processes: list[psutil.Process]
    since: float
    killed: bool = False


class EmbeddedTriton:
    """A tritonserver of our own, serving every model of the repository that can be served."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.perf_counter) -> None:
        """Raises CannotStart when the repository holds no models."""
        self._repository = settings.model_repository.resolve()
        self._settings = settings
        self._clock = clock
        if not self.on_disk():
            raise CannotStart(
                f"{self._repository} holds no Triton models (no */config.pbtxt): "
                "write one with `python -m export`"
            )
        self._server = TritonServer(settings)
        self._engines: dict[str, _Engine] = {}  # loaded models, by name
        self._gone: dict[str, float] = {}  # loaded, but no longer in the repository -> since when
        self._complaints: dict[str, str] = {}  # models that cannot be loaded -> why, as logged
        self._strays: set[str] = set()  # entries of the repository that are no models, as logged
        self.url = self._server.files.grpc_url
        self.metrics_url = self._server.files.metrics_url

    async def start(self, triton: Triton) -> None:
        """Start the server and load all models that can be loaded.

        Raises CannotStart when the server does not start, or when models fail and those that are
        left make no tokenizer.
        """
        await self._server.start(triton)
        self._complaints.clear()
        if not await self.load_new(triton) and not self._serves_a_tokenizer():
            raise CannotStart("; ".join(self._complaints.values()))

    async def restart(self, triton: Triton) -> None:
        """Kill it, clean up and start again under the same address. Raises CannotStart."""
        self._engines.clear()
        await self._server.kill()
        await self.start(triton)

    async def stop(self) -> None:
        """Kill the server and its engines, and remove their files."""
        self._engines.clear()
        await self._server.stop()

    def kill(self, name: str) -> None:
        """Kill a model's engine processes: it is `broken` then. No error where it is not loaded."""
        if (engine := self._engines.get(name)) is not None:
            engine.killed = True
            _kill(engine.processes)

    async def reload(self, triton: Triton, name: str) -> None:
        """Give one model new engine processes. Raises EngineUnavailable, CannotStart."""
        self.kill(name)  # Triton would wait for a hung one
        try:
            await triton.unload(name)
        finally:  # before the load, after which streams are the new processes'
            triton.streams.cancel_all(name)
        await self._load(triton, name)

    async def load_new(self, triton: Triton) -> bool:
        """Load the models that are new in the repository. False when one fails, which is logged."""
        if new := set(strays(self._repository)) - self._strays:
            self._strays |= new
            log.info("not_models", names=sorted(new), repository=str(self._repository))
        names = [name for name in self.on_disk() if name not in self._engines]
        return all(await asyncio.gather(*(self._try_load(triton, name) for name in names)))

    async def _try_load(self, triton: Triton, name: str) -> bool:
        if name not in self._complaints:
            log.info("loading", model=name)
        try:
            await self._load(triton, name)
        except (EngineUnavailable, CannotStart) as error:
            if self._complaints.get(name) != str(error):
                log.error("cannot_load", model=name, why=str(error))
            self._complaints[name] = str(error)
            return False
        self._complaints.pop(name, None)
        return True

    def _serves_a_tokenizer(self) -> bool:
        configs = [engine.config for engine in self._engines.values()]
        ours = [model_of(config) for config in configs if is_ours(config)]
        return bool(ServedModels(ours).tokenizers)

    async def retire(self, triton: Triton, in_use: set[str]) -> None:
        """Unload models that have been gone from the repository for `retire_seconds`.

        in_use: models that stay, because calls that name no older version go to them.
        Raises EngineUnavailable.
        """
        on_disk, now = set(self.on_disk()), self._clock()
        if not on_disk:  # the repository is being replaced, or was removed: keep what is loaded
            return
        self._gone = {
            name: self._gone.get(name, now) for name in self._engines.keys() - on_disk - in_use
        }
        for name, since in self._gone.items():
            if (
                now - since >= self._settings.retire_seconds
                and self._engines.pop(name, None) is not None
            ):
                log.info("retiring", model=name)
                await triton.unload(name)

    @property
    def loaded(self) -> dict[str, float]:
        """Names of the loaded models -> load time, on the clock."""
        return {name: engine.since for name, engine in self._engines.items()}

    def failure(self) -> str | None:
        """What is wrong with the server process; None when it runs."""
        return self._server.failure()

    def broken(self) -> list[str]:
        """Loaded models with an engine process that does not run; Triton still calls them ready.

        Without those that are gone from the repository, because they could not be loaded again.
        """
        lacking = {
            name
            for name, engine in self._engines.items()
            if engine.killed or not all(map(runs, engine.processes))
        }
        return sorted(lacking & set(self.on_disk())) if lacking else []

    def on_disk(self) -> list[str]:
        """Names of the models in the repository, sorted."""
        return [folder.name for folder in model_folders(self._repository)]

    async def _load(self, triton: Triton, name: str) -> None:
        """Raises EngineUnavailable, CannotStart."""
        config = read_config(self._repository / name, self._settings)
        self._server.files.make()  # Triton takes the model and its program from there
        try:
            await triton.load(
                name, json_format.MessageToJson(config, preserving_proto_field_name=True)
            )
        except EngineUnavailable:
            # An engine that hangs while it starts would stay, and so would one more at each try.
            _kill(self._server.engine_processes(name))
            raise
        triton.health.forget(name)
        processes = self._server.engine_processes(name)
        self._engines[name] = _Engine(config, processes, self._clock())


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()

"""Scripted Triton, embedded Triton and probe: what the supervisor sees, at a test's will."""

from typing import Any

from service.errors import EngineUnavailable, ServiceError
from service.triton.health import EngineHealth
from service.triton.models import Model


class PolledTriton:
    """Serves `models`, or does not answer when they are None."""

    def __init__(self, models: list[Model] | None) -> None:
        self.served = models
        self.health = EngineHealth()
        self.reconnects = 0

    async def models(self) -> list[Model]:
        if self.served is None:
            raise EngineUnavailable("Triton does not answer")
        return list(self.served)

    def reconnect(self) -> None:
        self.reconnects += 1


class ScriptedProbe:
    """Every model works, except those in `failing`."""

    def __init__(self) -> None:
        self.failing: set[str] = set()

    async def check(self, model: Model) -> ServiceError | None:
        return EngineUnavailable("the engine is down") if model.name in self.failing else None

    check_generator = check


class ScriptedEmbedded:
    """Does nothing but record its calls. `fails`: loading, reloading and restarting raise."""

    def __init__(self, on_disk: list[str]) -> None:
        self.files = on_disk
        self.loaded = dict.fromkeys(on_disk, 0.0)
        self.killed: list[str] = []
        self.server_failure: str | None = None
        self.fails = False
        self.calls: list[Any] = []

    def on_disk(self) -> list[str]:
        return self.files

    def failure(self) -> str | None:
        return self.server_failure

    def broken(self) -> list[str]:
        return sorted(self.killed)

    def kill(self, name: str) -> None:
        self.killed.append(name)
        self.calls.append(("kill", name))

    async def reload(self, triton: object, name: str) -> None:
        self.calls.append(("reload", name))
        if self.fails:
            raise EngineUnavailable(f"Triton cannot load {name}")
        self.killed.remove(name)

    async def restart(self, triton: object) -> None:
        self.calls.append("restart")
        if self.fails:
            raise EngineUnavailable("Triton cannot start")
        self.server_failure = None

    async def load_new(self, triton: object) -> bool:
        self.calls.append("load_new")
        return not self.fails

    async def retire(self, triton: object, in_use: set[str]) -> None:
        self.calls.append(("retire", in_use))

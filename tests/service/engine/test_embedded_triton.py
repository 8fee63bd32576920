"""What the embedded Triton loads, retires and calls broken, without a tritonserver."""

import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from service.engine.embedded_triton import EmbeddedTriton
from service.engine.repository import read_config
from service.errors import CannotStart, EngineUnavailable
from service.settings import Settings
from service.triton.health import EngineHealth
from service.triton.models import model_of
from tests.support.clock import Clock
from tests.support.running import ROOT

SHIPPED = ROOT / "model_repository"


class Loads:
    """Records what is loaded and unloaded; the models in `failing` do not load."""

    def __init__(self) -> None:
        self.configs: dict[str, dict[str, object]] = {}
        self.unloaded: list[str] = []
        self.failing: set[str] = set()
        self.calls: list[tuple[str, str]] = []
        self.health = EngineHealth()
        self.streams = self

    def cancel_all(self, name: str) -> None:
        self.calls.append(("cancel", name))

    async def load(self, name: str, config: str) -> None:
        self.calls.append(("load", name))
        if name in self.failing:
            raise EngineUnavailable(f"Triton cannot load {name}")
        self.configs[name] = json.loads(config)

    async def unload(self, name: str) -> None:
        self.calls.append(("unload", name))
        if name in self.failing:
            raise EngineUnavailable(f"Triton cannot unload {name}")
        self.unloaded.append(name)


class Repository:
    """A folder of models, an embedded Triton that serves it, and the client it loads through."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.add("encode")
        self.clock = Clock()
        self.triton = Loads()
        self.embedded = EmbeddedTriton(
            Settings(model_repository=folder, retire_seconds=600.0), self.clock
        )

    def add(self, name: str) -> None:
        (self.folder / name).mkdir()
        config = (SHIPPED / "demo_encode/config.pbtxt").read_text()
        (self.folder / name / "config.pbtxt").write_text(
            config.replace('name: "demo_encode"', f'name: "{name}"')
        )

    def remove(self, name: str) -> None:
        shutil.rmtree(self.folder / name)

    async def load_new(self) -> bool:
        return await self.embedded.load_new(self.triton)  # type: ignore[arg-type]

    async def retired(self, seconds: float, in_use: frozenset[str] = frozenset()) -> list[str]:
        """Models that are unloaded so many seconds later."""
        self.clock.now += seconds
        self.triton.unloaded.clear()
        await self.embedded.retire(self.triton, set(in_use))  # type: ignore[arg-type]
        return self.triton.unloaded


@pytest.fixture
async def repository(tmp_path: Path) -> AsyncIterator[Repository]:
    repository = Repository(tmp_path)
    yield repository
    await repository.embedded.stop()


def test_embedded_triton_needs_a_model(tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match="holds no Triton models"):
        EmbeddedTriton(Settings(model_repository=tmp_path))


async def test_load_new_loads_each_model_once(repository: Repository) -> None:
    assert await repository.load_new()
    repository.add("decode")
    repository.triton.configs.clear()
    repository.clock.now = 1010.0
    assert await repository.load_new()
    assert list(repository.triton.configs) == ["decode"]
    assert repository.embedded.loaded == {"encode": 1000.0, "decode": 1010.0}


async def test_load_new_loads_the_others_when_one_fails(repository: Repository) -> None:
    """Each failure is logged once for each reason."""
    for name in ("broken", "half-copied"):
        repository.add(name)
    half = repository.folder / "half-copied/config.pbtxt"
    whole = half.read_text()
    half.write_text('name: "half')
    repository.triton.failing = {"broken"}
    with capture_logs() as logs:
        for _ in range(3):
            assert not await repository.load_new()
    failed = [entry["model"] for entry in logs if entry["event"] == "cannot_load"]
    assert sorted(failed) == ["broken", "half-copied"]
    assert list(repository.embedded.loaded) == ["encode"]
    half.write_text(whole)
    assert not await repository.load_new()
    assert list(repository.embedded.loaded) == ["encode", "half-copied"]


async def test_reload_ends_the_streams_of_the_old_processes_alone(repository: Repository) -> None:
    """Those that open once the model is loaded belong to the new processes."""
    await repository.load_new()
    repository.triton.calls.clear()
    await repository.embedded.reload(repository.triton, "encode")  # type: ignore[arg-type]
    assert [call for call, _ in repository.triton.calls] == ["unload", "cancel", "load"]
    repository.triton.failing = {"encode"}
    with pytest.raises(EngineUnavailable):
        await repository.embedded.reload(repository.triton, "encode")  # type: ignore[arg-type]
    assert repository.triton.calls[3:] == [("unload", "encode"), ("cancel", "encode")]


async def test_reloaded_model_is_not_silent(repository: Repository) -> None:
    """Otherwise the next check would take the silence of the old processes for a new fault."""
    await repository.load_new()
    model = model_of(read_config(repository.folder / "encode", Settings()))
    record = repository.triton.health.for_model(model)
    record.last_reply_at -= 100.0
    record.has_unfinished_stream = True
    await repository.embedded.reload(repository.triton, "encode")  # type: ignore[arg-type]
    assert repository.triton.health.silent_seconds(model) == 0.0
    assert not repository.triton.health.for_model(model).has_unfinished_stream


async def test_load_new_names_what_is_no_model_once(repository: Repository) -> None:
    (repository.folder / "README").touch()
    with capture_logs() as logs:
        for name in (".git", "lost+found"):
            (repository.folder / name).mkdir()
            for _ in range(2):
                assert await repository.load_new()
    named = [entry["names"] for entry in logs if entry["event"] == "not_models"]
    assert named == [[".git", "README"], ["lost+found"]]


async def test_retire_unloads_what_is_gone_for_long_enough(repository: Repository) -> None:
    repository.add("old")
    await repository.load_new()
    repository.remove("old")
    assert await repository.retired(0) == []
    assert await repository.retired(599) == []
    assert await repository.retired(1) == ["old"]
    assert await repository.retired(1000) == []
    assert list(repository.embedded.loaded) == ["encode"]


async def test_retire_counts_anew_what_came_back(repository: Repository) -> None:
    repository.add("old")
    await repository.load_new()
    repository.remove("old")
    await repository.retired(0)
    repository.add("old")
    await repository.retired(500)
    repository.remove("old")
    assert await repository.retired(500) == []
    assert await repository.retired(600) == ["old"]


async def test_retire_keeps_what_is_in_use(repository: Repository) -> None:
    repository.add("old")
    await repository.load_new()
    repository.remove("old")
    for _ in range(2):
        assert await repository.retired(600, frozenset({"old"})) == []


async def test_retire_keeps_everything_when_the_repository_vanishes(
    repository: Repository,
) -> None:
    await repository.load_new()
    repository.remove("encode")
    for _ in range(2):
        assert await repository.retired(600) == []


async def test_a_killed_model_is_broken_unless_its_files_are_gone(repository: Repository) -> None:
    repository.add("old")
    await repository.load_new()
    assert repository.embedded.broken() == []
    for name in ("encode", "old", "never loaded"):
        repository.embedded.kill(name)
    assert repository.embedded.broken() == ["encode", "old"]
    repository.remove("old")
    assert repository.embedded.broken() == ["encode"]
    await repository.embedded.reload(repository.triton, "encode")  # type: ignore[arg-type]
    assert repository.triton.unloaded == ["encode"]
    assert repository.embedded.broken() == []

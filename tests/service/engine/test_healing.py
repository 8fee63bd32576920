from contextlib import suppress
from unittest.mock import AsyncMock

import pytest

from service.core.registry import Registry, ServedModels
from service.engine.healing import Healer
from service.engine.readiness import Readiness
from service.errors import EngineUnavailable
from service.settings import Settings
from tests.support.clock import Clock
from tests.support.scripted_engine import PolledTriton, ScriptedEmbedded, ScriptedProbe
from tests.support.served_models import A, B, generator, models

TIMEOUT = 60.0


class Healed:
    """A healer and everything around it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.triton = PolledTriton([])
        self.embedded = ScriptedEmbedded(["decoder", "encoder"])
        self.embedded.loaded = {"decoder": 500.0, "encoder": 500.0}
        self.readiness = Readiness(
            self.triton,  # type: ignore[arg-type]
            self.embedded,  # type: ignore[arg-type]
            Registry(AsyncMock()),
            ScriptedProbe(),  # type: ignore[arg-type]
            Settings(),
            self.clock,
        )
        self.healer = Healer(
            self.triton,  # type: ignore[arg-type]
            self.embedded,  # type: ignore[arg-type]
            self.readiness,
            TIMEOUT,
            self.clock,
        )

    async def repairs_at(self, seconds: int) -> list[int]:
        """When it tried to repair something, of so many seconds with a look each second."""
        tries = []
        for second in range(seconds):
            self.clock.now = 1000.0 + second
            calls = len(self.embedded.calls)
            with suppress(EngineUnavailable):
                await self.healer.repair()
            if len(self.embedded.calls) > calls:
                tries.append(second)
        return tries


async def test_healer_kills_a_suspect_that_failed_since_it_was_loaded() -> None:
    healed = Healed()
    healed.triton.health.suspect("decoder", 501.0)
    healed.triton.health.suspect("encoder", 499.0)  # what failed then was its predecessor
    healed.triton.health.suspect("retired", 501.0)
    for _ in range(3):
        await healed.healer.kill_suspects()
    assert healed.embedded.calls == [("kill", "decoder")]


async def test_healer_reloads_what_it_killed_and_then_leaves_it_alone() -> None:
    healed = Healed()
    healed.triton.health.suspect("decoder", 501.0)
    await healed.healer.kill_suspects()
    await healed.healer.repair()
    healed.embedded.loaded["decoder"] = 502.0
    healed.healer.confirm({"decoder"})
    await healed.healer.kill_suspects()
    await healed.healer.repair()
    assert healed.embedded.calls == [("kill", "decoder"), ("reload", "decoder")]


async def test_healer_does_not_kill_again_before_the_next_repair_is_due() -> None:
    healed = Healed()
    healed.embedded.kill("decoder")
    await healed.healer.repair()  # reloaded now
    healed.triton.health.suspect("decoder", 1000.5)
    healed.clock.now = 1000.9
    await healed.healer.kill_suspects()
    assert not healed.embedded.broken()
    healed.clock.now = 1001.0
    await healed.healer.kill_suspects()
    assert healed.embedded.broken() == ["decoder"]


async def test_healer_repairs_what_stays_broken_after_ever_longer_pauses() -> None:
    healed = Healed()
    healed.embedded.kill("decoder")
    healed.embedded.fails = True
    assert await healed.repairs_at(120) == [0, 1, 3, 7, 15, 31, 61, 91]


async def test_healer_repairs_at_once_what_worked_in_between() -> None:
    healed = Healed()
    for _ in range(5):
        healed.embedded.kill("decoder")
        await healed.healer.repair()
        assert not healed.embedded.broken()
        healed.healer.confirm({"decoder"})


async def test_healer_restarts_a_server_that_ended() -> None:
    healed = Healed()
    await healed.readiness.set_ready(True)
    healed.embedded.server_failure = "tritonserver ended with exit code 1"
    healed.embedded.fails = True
    assert await healed.repairs_at(10) == [0, 1, 3, 7]
    assert not healed.readiness.ready
    healed.embedded.fails = False
    healed.clock.now = 1015.0
    await healed.healer.repair()
    assert healed.embedded.server_failure is None


async def test_healer_restarts_a_server_that_does_not_answer_for_the_engine_timeout() -> None:
    healed = Healed()
    healed.readiness.unresponsive_since = healed.clock.now
    healed.clock.now += TIMEOUT
    await healed.healer.repair()
    assert healed.embedded.calls == []
    healed.clock.now += 0.1
    await healed.healer.repair()
    assert healed.embedded.calls == ["restart"]
    assert healed.readiness.unresponsive_since is None


@pytest.mark.parametrize(("fails", "tries"), [(False, 10), (True, 4)])
async def test_healer_loads_new_models_less_often_while_one_fails(fails: bool, tries: int) -> None:
    healed = Healed()
    healed.embedded.fails = fails
    for second in range(10):
        healed.clock.now = 1000.0 + second
        await healed.healer.load_new()
    assert healed.embedded.calls == ["load_new"] * tries


async def test_healer_loads_nothing_while_the_server_is_down() -> None:
    healed = Healed()
    healed.embedded.server_failure = "tritonserver is stopped"
    await healed.healer.load_new()
    assert healed.embedded.calls == []


async def test_healer_retires_no_current_version() -> None:
    healed = Healed()
    new = {"cat_encode", "cat_decode_k64", "cat_decode_k256", "gpt_generate"}
    older = [model for model in models("cat", A) if model.name not in new]
    served = ServedModels(
        [*older, *models("cat", B, (64, 256), version=2), generator("gpt", B, version=2)]
    )
    await healed.healer.retire(served)
    assert healed.embedded.calls == [("retire", new)]

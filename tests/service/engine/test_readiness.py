import math
from dataclasses import replace
from unittest.mock import AsyncMock

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from service.core.registry import Registry
from service.engine.readiness import Readiness
from service.errors import EngineUnavailable
from service.settings import Settings
from service.triton.models import Model
from tests.support.clock import Clock
from tests.support.scripted_engine import PolledTriton, ScriptedEmbedded, ScriptedProbe
from tests.support.served_models import A, B, generator, models


class Watched:
    """A readiness and everything around it. changes: what its listener heard."""

    def __init__(self, served: list[Model] | None, on_disk: list[str] | None = None) -> None:
        self.triton = PolledTriton(served)
        self.probe = ScriptedProbe()
        self.clock = Clock()
        self.registry = Registry(AsyncMock())
        self.changes: list[bool] = []
        self.readiness = Readiness(
            self.triton,  # type: ignore[arg-type]
            None if on_disk is None else ScriptedEmbedded(on_disk),  # type: ignore[arg-type]
            self.registry,
            self.probe,  # type: ignore[arg-type]
            Settings(),
            self.clock,
        )

        async def listener(ready: bool) -> None:
            self.changes.append(ready)

        self.readiness.subscribe(listener)

    async def poll(self) -> set[str]:
        return await self.readiness.poll()

    def fingerprints(self) -> list[str]:
        return [tokenizer.fingerprint for tokenizer in self.registry.current.tokenizers]

    def generators(self) -> list[int]:
        return [generator.version for generator in self.registry.current.generators]


def engine_ready(model: str) -> float | None:
    return REGISTRY.get_sample_value("channeltok_engine_ready", {"model": model})


async def reasons(watched: Watched) -> list[str]:
    with capture_logs() as logs:
        await watched.poll()
    return [entry["why"] for entry in logs if entry["event"] == "not_ready"]


async def test_readiness_follows_the_probes() -> None:
    watched = Watched(models("cat", A))
    assert await watched.poll() == {"cat_encode", "cat_decode_k256"}
    watched.probe.failing = {"cat_encode"}
    assert await reasons(watched) == ["cat_encode: the engine is down"]
    assert await watched.poll() == {"cat_decode_k256"}
    assert (engine_ready("cat_encode"), engine_ready("cat_decode_k256")) == (0, 1)
    watched.probe.failing = set()
    await watched.poll()
    assert watched.changes == [True, False, True]
    await watched.readiness.wait()


async def test_readiness_is_lost_when_any_tokenizer_fails_and_its_callers_still_find_it() -> None:
    watched = Watched([*models("cat", A), *models("dog", B)])
    watched.probe.failing = {"dog_encode"}
    await watched.poll()
    assert not watched.readiness.ready
    assert watched.fingerprints() == [A, B]


async def test_readiness_needs_a_tokenizer() -> None:
    watched = Watched([Model("resnet", *2 * (models("cat", A)[0].input,), {})])
    assert await reasons(watched) == ["Triton serves no tokenizer"]
    assert not watched.readiness.ready


async def test_a_version_that_fails_is_not_published_while_another_works() -> None:
    new = [
        Model(f"new_{model.name}", model.input, model.output, model.parameters)
        for model in models("cat", B, version=2)
    ]
    watched = Watched([*models("cat", A), *new])
    watched.probe.failing = {"new_cat_encode"}
    await watched.poll()
    assert watched.readiness.ready
    assert watched.fingerprints() == [A]
    watched.probe.failing = set()
    await watched.poll()
    assert watched.fingerprints() == [B, A]
    watched.probe.failing = {"cat_encode", "new_cat_encode"}
    assert len(await reasons(watched)) == 1  # both fail: neither is left out
    assert watched.fingerprints() == [B, A]


async def test_a_new_generator_is_published_once_it_answered() -> None:
    old, new = generator("gpt", A, 1), generator("gpt", A, 2)
    new = Model("new_generate", new.input, new.output, new.parameters)
    watched = Watched([*models("cat", A), old])
    await watched.poll()
    assert watched.generators() == [1]  # the only version: callers learn that it is down
    assert await watched.readiness.probe_generators() == {"gpt_generate"}
    watched.triton.served = [*models("cat", A), old, new]
    watched.probe.failing = {"new_generate"}
    await watched.poll()
    assert await watched.readiness.probe_generators() == {"gpt_generate"}
    await watched.poll()
    assert watched.generators() == [1]
    watched.probe.failing = set()
    await watched.readiness.probe_generators()
    await watched.poll()
    assert watched.generators() == [2, 1]
    assert watched.readiness.ready


async def test_a_generator_that_fails_is_logged_once_and_readiness_stays() -> None:
    watched = Watched([*models("cat", A), generator("gpt", A)])
    await watched.poll()
    await watched.readiness.probe_generators()
    watched.probe.failing = {"gpt_generate"}
    with capture_logs() as logs:
        await watched.readiness.probe_generators()
        await watched.readiness.probe_generators()
    assert [entry["event"] for entry in logs] == ["generator_failed"]
    assert watched.readiness.ready


@pytest.mark.parametrize(
    ("on_disk", "reconnects"), [(None, 2), ([], 0)], ids=["remote", "embedded"]
)
async def test_a_silent_triton_is_timed_from_its_first_silence(
    on_disk: list[str] | None, reconnects: int
) -> None:
    watched = Watched(models("cat", A), on_disk)
    await watched.poll()
    watched.triton.served = None
    for watched.clock.now in (1010.0, 1020.0):
        with pytest.raises(EngineUnavailable):
            await watched.poll()
    assert watched.readiness.unresponsive_since == 1010.0
    assert watched.triton.reconnects == reconnects
    assert engine_ready("cat_encode") == 0
    watched.triton.served = models("cat", A)
    await watched.poll()
    assert watched.readiness.unresponsive_since is None


async def test_a_model_being_reloaded_stays_published_and_is_not_ready() -> None:
    encode, decode = models("cat", A)
    watched = Watched([encode, decode], ["cat_encode", "cat_decode_k256"])
    await watched.poll()
    watched.triton.served = [encode]
    watched.probe.failing = {"cat_decode_k256"}  # Triton does not know it now
    await watched.poll()
    assert watched.fingerprints() == [A]
    assert not watched.readiness.ready


async def test_a_retired_model_is_forgotten() -> None:
    watched = Watched([*models("cat", A), *models("cow", B)], ["cat_encode", "cat_decode_k256"])
    await watched.poll()
    watched.triton.served = models("cat", A)
    await watched.poll()
    assert watched.fingerprints() == [A]
    assert math.isnan(engine_ready("cow_encode") or 0)
    assert watched.readiness.ready


async def test_the_engine_of_each_model_is_shown() -> None:
    def engine_of(model: str, engine: str) -> float | None:
        return REGISTRY.get_sample_value(
            "channeltok_engine_info", {"model": model, "engine": engine}
        )

    def with_engine(engine: str, precision: str) -> list[Model]:
        changed = {"engine": engine, "precision": precision}
        return [
            replace(model, parameters={**model.parameters, **changed}) for model in models("emu", A)
        ]

    watched = Watched(with_engine("onnxruntime", ""), ["emu_decode_k256"])
    await watched.poll()
    assert engine_of("emu_encode", "onnxruntime") == 1
    watched.triton.served = with_engine("openvino", "bf16")
    await watched.poll()
    assert engine_of("emu_encode", "onnxruntime") == 0
    assert engine_of("emu_encode", "openvino bf16") == 1
    watched.triton.served = watched.triton.served[1:]
    await watched.poll()
    assert engine_of("emu_encode", "openvino bf16") == 0
    assert engine_of("emu_decode_k256", "openvino bf16") == 1


async def test_a_model_that_a_newer_training_replaced_is_forgotten() -> None:
    """Its files may still be there for a moment, under a name of their own."""
    old = [
        Model(f"old_{model.name}", model.input, model.output, model.parameters)
        for model in models("cat", A)
    ]
    watched = Watched([*old, *models("cat", B, version=2)], [model.name for model in old])
    await watched.poll()
    watched.triton.served = models("cat", B, version=2)
    await watched.poll()
    assert watched.fingerprints() == [B]


async def test_a_remote_triton_decides_alone_what_it_serves() -> None:
    watched = Watched([*models("cat", A), *models("dog", B)])
    await watched.poll()
    watched.triton.served = models("cat", A)
    await watched.poll()
    assert watched.fingerprints() == [A]
    assert engine_ready("dog_encode") == 0
    assert watched.readiness.ready


async def test_a_reason_is_logged_when_it_changes_and_once_a_minute_while_it_stays() -> None:
    watched = Watched([])
    with capture_logs() as logs:
        for second in range(121):
            watched.clock.now = 1000.0 + second
            await watched.readiness.set_ready(
                False, "Triton does not answer" if second < 10 else f"model {second % 2} fails"
            )
    logged = [entry["why"] for entry in logs if entry["event"] == "not_ready"]
    assert logged[0] == "Triton does not answer"  # at once, though it was not ready before either
    assert logged.count("Triton does not answer") == 1
    assert [logged.count(f"model {number} fails") for number in (0, 1)] == [2, 2]
    assert watched.changes == []


async def test_a_reason_that_comes_back_after_readiness_is_logged_again() -> None:
    watched = Watched([])
    with capture_logs() as logs:
        for ready in (False, True, False, True):
            await watched.readiness.set_ready(ready, "Triton does not answer")
    assert [entry["event"] for entry in logs] == ["not_ready", "ready", "not_ready", "ready"]
    assert watched.changes == [True, False, True]

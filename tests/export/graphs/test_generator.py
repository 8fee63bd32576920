"""Generator graphs agree with their checkpoint, and a real Triton streams their tokens."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
import pytest_asyncio
import torch
from numpy.typing import NDArray

from export.__main__ import main
from export.graphs import generator_parity
from export.triton import generator_repository, repository
from export.triton.generator_backend import GeneratorSession, gumbel
from generator import checkpoint
from generator.sample import sample
from service.core.registry import ServedModels
from service.engine.embedded_triton import EmbeddedTriton
from service.errors import EngineUnavailable
from service.settings import Settings
from service.triton.client import Triton
from service.triton.models import Model
from tests.support import exported_graphs
from tests.support.fake_triton import RecordingPermit
from tests.support.random_generator import CLASSES, random_generator

CHANNELS = 2048  # long enough that a sequence still runs when a test checks it


@pytest.fixture(scope="module")
def graph() -> bytes:
    return exported_graphs.step_graph(random_generator(CHANNELS), "tiny")


@pytest.mark.parametrize("prediction", ["bits", "softmax"])
def test_step_graph_agrees_with_pytorch(prediction: str) -> None:
    length = 70
    generator = random_generator(length, prediction)
    step_graph = exported_graphs.step_graph(generator, "tiny")
    result = generator_parity.gpt_parity(generator.model, step_graph, [-1, 0, 2])
    assert result.out_of_bounds == []
    assert result.tokens == 3 * length
    others = random_generator(length, prediction, seed=1)
    assert generator_parity.gpt_parity(others.model, step_graph, [0], 32).out_of_bounds
    model = onnx.load_model_from_string(step_graph)
    assert model.opset_import[0].version == 21
    stored = [
        weight for weight in model.graph.initializer if weight.data_type == onnx.TensorProto.FLOAT16
    ]
    assert len(stored) >= 2 * 4


def test_step_graph_survives_a_certain_bit() -> None:
    """In fp32 the log of a sigmoid is -inf beyond 104, which well-trained models reach."""
    generator = random_generator()
    with torch.no_grad():
        generator.model.prediction.linear.weight.mul_(1000)
    session = GeneratorSession(exported_graphs.step_graph(generator, "tiny"), threads=1)
    _, logits = generator_parity.greedy(session, [[-2]], 8)
    assert np.isfinite(logits).all()
    assert logits.min() < -1000


def test_step_graph_prefills_as_it_decodes(graph: bytes) -> None:
    session = GeneratorSession(graph, threads=1)
    tokens, whole = _sampled(session, 5, 6), session.batch(1)
    whole.begin(0, [-3, *tokens[:5]], temperature=1.0, top_k=0)
    whole.noise[0] = gumbel(5, 5, 2, 256)
    whole.step(1)
    assert whole.next[0] == tokens[5]


@pytest.mark.parametrize("prediction", ["bits", "softmax"])
def test_step_graph_guides_as_pytorch(prediction: str) -> None:
    """Greedily; the row without the class takes the tokens of the one that it guides."""
    generator = random_generator(32, prediction)
    session = GeneratorSession(exported_graphs.step_graph(generator, "tiny"), threads=1)
    expected = sample(generator.model, [0, 2], seed=0, temperature=0.0, guidance=3.0)
    batch, tokens = session.batch(5), []
    for row, label in enumerate((0, 2, -1, -1, 1)):
        batch.begin(row, [-2 - label], temperature=0.0, top_k=0, guidance=3.0)
    batch.link([0, 3])
    batch.link([1, 2])
    for _ in range(32):
        batch.step(5)
        assert batch.next[[3, 2]].tolist() == batch.next[:2].tolist()
        tokens.append(batch.next[:2].copy())
        batch.newest[:, 0] = batch.next
    assert np.stack(tokens, axis=1).tolist() == expected.tolist()
    assert not torch.equal(expected, sample(generator.model, [0, 2], seed=0, temperature=0.0))


@pytest.mark.parametrize("rows", [2, 3, 4, 5, 8, 16])
def test_sequences_of_a_step_do_not_depend_on_each_other(graph: bytes, rows: int) -> None:
    """Not by one bit of a logit, whatever the others' lengths and sampling parameters are."""
    session = GeneratorSession(graph, threads=1)
    alone = [_steps(session, [row]) for row in range(rows)]
    together = _steps(session, list(range(rows)))
    assert np.array_equal(together, np.concatenate(alone, axis=1))


def test_batch_moves_a_sequence_to_another_row(graph: bytes) -> None:
    session = GeneratorSession(graph, threads=1)
    assert np.array_equal(_steps(session, [5], move_from=3), _steps(session, [5]))


def _steps(
    session: GeneratorSession, rows: list[int], move_from: int | None = None
) -> NDArray[np.float32]:
    """Logits float32 [steps, rows, draws, values] of sequences whose numbers say what they are.

    move_from: the row in which the only sequence begins before it moves to the first.
    """
    batch = session.batch(16)
    for row, number in enumerate(rows):
        begin = row if move_from is None else move_from
        temperature, top_k = number / 10, (0, 1, 7, 256)[number % 4]
        top_p = (1.0, 0.5, 0.9)[number % 3]
        condition = -1 - number % 4
        prefix = range(1000 * number, 1001 * number)  # of 0 to 15 tokens
        batch.begin(begin, [condition, *prefix, 4000 * number], temperature, top_k, top_p)
        if begin != row:
            batch.move(begin, row)
            batch.link([row])
    logits = []
    for index in range(5):
        for row, number in enumerate(rows):
            batch.noise[row] = gumbel(number, index, 2, 256)
        batch.step(len(rows))
        logits.append(batch.logits[: len(rows)].copy())
        batch.newest[: len(rows), 0] = batch.next[: len(rows)]
    return np.stack(logits)


def _sampled(session: GeneratorSession, seed: int, length: int) -> list[int]:
    """Tokens of class 1 at temperature 1."""
    batch, tokens = session.batch(1), []
    batch.begin(0, [-3], temperature=1.0, top_k=0)
    for index in range(length):
        batch.noise[0] = gumbel(seed, index, session.draws, session.values)
        batch.step(1)
        batch.newest[0] = batch.next[0]
        tokens.append(int(batch.next[0]))
    return tokens


def test_config_has_what_the_gateway_needs(graph: bytes) -> None:
    config = repository.parse(generator_repository.config(graph, 2))
    assert (config.name, config.max_batch_size, config.model_transaction_policy.decoupled) == (
        "tiny_generate_v2",
        0,
        True,
    )
    assert {tensor.name: list(tensor.dims) for tensor in config.input} == {
        "class": [1],
        "prefix": [CHANNELS],
        "length": [1],
        "seed": [1],
        "temperature": [1],
        "final_temperature": [1],
        "top_k": [1],
        "top_p": [1],
        "guidance": [1],
    }
    said = {name: value.string_value for name, value in config.parameters.items()}
    assert "tokenizer" not in said
    assert json.loads(said["classes"]) == CLASSES
    expected = {
        "generator": "tiny",
        "role": "generate",
        "family": "gpt",
        "channels": str(CHANNELS),
        "positions": str(CHANNELS),
        "prompt_bytes": "0",
        "interface": "2",
        "codes": "65536",
        "bits_per_token": "16",
    }
    assert expected.items() <= said.items()
    assert said["fingerprint"] == random_generator().tokenizer
    assert said["generator_fingerprint"] == checkpoint.fingerprint(random_generator(CHANNELS).model)


def test_command_writes_a_model_beside_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model_repository/other").mkdir(parents=True)
    for seed, name in ((0, "tiny_generate"), (0, "tiny_generate"), (1, "tiny_generate_v2")):
        checkpoint.save(random_generator(seed=seed), Path("tiny.safetensors"))
        main(["generator", "tiny.safetensors", "--report", "build/parity.json"])
        assert sorted(path.name for path in Path("model_repository").iterdir()) == ["other", name]
    assert sorted(path.name for path in Path(f"model_repository/{name}/1").iterdir()) == [
        "model.onnx",
        "model.py",
    ]
    assert json.loads(Path("build/parity.json").read_text())["different_tokens"] == 0
    config = repository.parse(Path(f"model_repository/{name}/config.pbtxt").read_text())
    assert config.parameters["sequences"].string_value == "16"
    Path("none.safetensors").write_bytes(b"none")
    with pytest.raises(SystemExit, match="is not a generator checkpoint"):
        main(["generator", "none.safetensors"])


def test_sequences_that_depend_on_each_other_share_no_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As they might on a processor whose instructions round other sizes otherwise."""
    greedy = generator_parity.greedy

    def dependent(session: GeneratorSession, prompts: list[list[int]], length: int) -> Any:
        tokens, logits = greedy(session, prompts, length)
        return tokens, logits if len(prompts) == 1 else np.nextafter(logits, np.float32(0))

    monkeypatch.setattr(generator_parity, "greedy", dependent)
    monkeypatch.chdir(tmp_path)
    checkpoint.save(random_generator(), Path("tiny.safetensors"))
    main(["generator", "tiny.safetensors"])
    assert "their tokens would depend on each other" in capsys.readouterr().out
    config = repository.parse(Path("model_repository/tiny_generate/config.pbtxt").read_text())
    assert config.parameters["sequences"].string_value == "1"


def _inputs(
    length: int,
    *,
    prefix: tuple[int, ...] = (),
    seed: int = 7,
    label: int = 1,
    temperature: float = 1.0,
    final_temperature: float | None = None,
    top_p: float = 1.0,
    guidance: float = 1.0,
) -> dict[str, NDArray[Any]]:
    padded = np.full(CHANNELS, -1, np.int32)
    padded[: len(prefix)] = prefix
    return {
        "class": np.array([label], np.int32),
        "prefix": padded,
        "length": np.array([length], np.int32),
        "seed": np.array([seed], np.int64),
        "temperature": np.array([temperature], np.float32),
        "final_temperature": np.array(
            [temperature if final_temperature is None else final_temperature], np.float32
        ),
        "top_k": np.array([0], np.int32),
        "top_p": np.array([top_p], np.float32),
        "guidance": np.array([guidance], np.float32),
    }


class GeneratorClient:
    """Calls a real Triton as the gateway does."""

    def __init__(self, triton: Triton, model: Model, engine: psutil.Process) -> None:
        self.triton, self.model, self.engine = triton, model, engine
        self.permit = RecordingPermit()

    def call(self, length: int, **options: Any) -> AsyncGenerator[dict[str, Any], None]:
        return self.triton.streams.infer(self.model, _inputs(length, **options), permit=self.permit)

    async def tokens(self, *arguments: Any, **options: Any) -> list[int]:
        """All tokens of a sequence; asserts that their indices are in order."""
        tokens: list[int] = []
        async for response in self.call(*arguments, **options):
            assert response["index"].tolist() == [len(options.get("prefix", ())) + len(tokens)]
            tokens += response["token"].tolist()
        return tokens

    async def idle(self) -> bool:
        """Whether the engine process uses no CPU for 0.4 s."""
        before = sum(self.engine.cpu_times()[:2])
        await asyncio.sleep(0.4)
        return sum(self.engine.cpu_times()[:2]) - before < 0.05


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def streams(
    graph: bytes, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[GeneratorClient]:
    folder = tmp_path_factory.mktemp("generator") / "repository"
    generator_repository.write(folder, graph)
    embedded = EmbeddedTriton(
        Settings(model_repository=folder, engine_instances=1, engine_threads=1)
    )
    triton = Triton(embedded.url)
    await embedded.start(triton)
    try:
        (model,) = await triton.models()
        assert (model.name, model.engine) == ("tiny_generate", "onnxruntime f32")
        assert ServedModels([model]).tokenizers == []
        (engine,) = embedded._engines["tiny_generate"].processes
        yield GeneratorClient(triton, model, engine)
    finally:
        await triton.close()
        await embedded.stop()
    assert (
        not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE
    )  # until its new parent has reaped it


module_loop = pytest.mark.asyncio(loop_scope="module")


@module_loop
async def test_backend_streams_the_graphs_tokens(streams: GeneratorClient, graph: bytes) -> None:
    expected = _sampled(GeneratorSession(graph, threads=1), 7, 40)
    assert await streams.tokens(40) == expected
    assert (
        await streams.tokens(40, prefix=tuple(expected[:15])) == expected[15:]
    )  # goes on as the whole did
    assert await streams.tokens(15, prefix=tuple(expected[:15])) == []
    assert len(set(await streams.tokens(40, seed=-8)) & set(expected)) < 20
    assert await streams.tokens(20, temperature=0) == await streams.tokens(
        20, temperature=0, seed=8
    )


@module_loop
async def test_backend_sends_the_first_token_alone_and_others_together(
    streams: GeneratorClient,
) -> None:
    sizes = [len(answer["token"]) async for answer in streams.call(400)]
    assert sizes[0] == 1
    assert sum(sizes) == 400
    assert 1 < len(sizes) < 300


@module_loop
async def test_sequences_do_not_depend_on_each_other(streams: GeneratorClient) -> None:
    alone = [await streams.tokens(30, seed=seed, label=seed - 1) for seed in range(4)]
    together = await asyncio.gather(
        *(streams.tokens(30, seed=seed, label=seed - 1) for seed in range(4))
    )
    assert together == alone


@module_loop
async def test_guided_sequences_do_not_depend_on_others(streams: GeneratorClient) -> None:
    """They take two rows of a step, and leave while others go on."""
    calls = [
        {"seed": n, "label": n % 4 - 1, "guidance": (1.0, 3.0)[n % 2], "length": 10 + 7 * (n % 5)}
        for n in range(20)
    ]
    alone = [await streams.tokens(**call) for call in calls]
    assert await asyncio.gather(*(streams.tokens(**call) for call in calls)) == alone
    length, whole = 30, await streams.tokens(30, seed=5, guidance=3.0)
    assert whole != await streams.tokens(length, seed=5)
    prefix = tuple(whole[:9])
    assert await streams.tokens(length, seed=5, guidance=3.0, prefix=prefix) == whole[9:]
    # Without a class there is nothing to follow.
    assert await streams.tokens(length, label=-1, guidance=3.0) == await streams.tokens(
        length, label=-1
    )


@module_loop
async def test_temperature_goes_to_the_final_one_by_position(
    streams: GeneratorClient, graph: bytes
) -> None:
    temperatures = np.linspace(2.0, 0.0, CHANNELS, dtype=np.float32)
    session = GeneratorSession(graph, threads=1)
    batch, expected = session.batch(1), []
    batch.begin(0, [-3], temperature=0.0, top_k=0)
    for index in range(40):
        batch.sampling["temperature"][0] = temperatures[index]
        batch.noise[0] = gumbel(7, index, 2, 256)
        batch.step(1)
        batch.newest[0] = batch.next[0]
        expected.append(int(batch.next[0]))
    cooling = {"temperature": 2.0, "final_temperature": 0.0}
    assert await streams.tokens(40, **cooling) == expected
    # Of a shorter sequence, and of one that goes on, beside others
    calls = [
        streams.tokens(20, **cooling),
        streams.tokens(40, prefix=tuple(expected[:9]), **cooling),
        streams.tokens(30, guidance=3.0),
    ]
    short, rest, _ = await asyncio.gather(*calls)
    assert [short, rest] == [expected[:20], expected[9:]]
    # The last tokens are greedy.
    end = {"temperature": 0.0, "final_temperature": 0.0}
    prefix = tuple(range(CHANNELS - 1))
    assert await streams.tokens(CHANNELS, prefix=prefix, **cooling) == await streams.tokens(
        CHANNELS, prefix=prefix, **end
    )


@module_loop
async def test_short_sequence_does_not_wait_for_a_long_one(streams: GeneratorClient) -> None:
    async with contextlib.aclosing(streams.call(CHANNELS)) as long:
        await anext(long)
        assert len(await streams.tokens(5)) == 5
        assert not streams.permit.work[-2].done()


@module_loop
async def test_abandoned_sequences_stop(streams: GeneratorClient) -> None:
    alone = await streams.tokens(CHANNELS)
    del streams.permit.work[:]
    calls = [streams.call(CHANNELS, seed=seed) for seed in range(8)]
    for call in calls:
        await anext(call)
    abandoned = list(streams.permit.work)
    kept = asyncio.create_task(streams.tokens(CHANNELS))
    await asyncio.sleep(0.02)
    for call in calls:
        await call.aclose()
    await asyncio.wait_for(asyncio.gather(*abandoned), 3)
    assert not kept.done()
    assert await kept == alone  # it has moved to the row of one that stopped
    assert await streams.idle()


@module_loop
async def test_invalid_request_ends_only_its_own_stream(streams: GeneratorClient) -> None:
    good = asyncio.create_task(streams.tokens(30))
    for options, sentence in (
        ({"label": 3}, "class is -1 (none) or 0 to 2, not 3"),
        ({"prefix": (5, 65536)}, "token ids from 0 to 65535"),
        ({"prefix": (5, -1, 7)}, "then -1 to its end"),
        ({"prefix": tuple(range(20))}, "not below the 20 tokens of the prefix, not 10"),
        ({"temperature": float("nan")}, "and top_k are 0 or more, not nan"),
        ({"final_temperature": -0.5}, "temperature, final_temperature and top_k are 0 or more"),
        ({"top_p": 0.0}, "top_p is over 0 to 1"),
        ({"guidance": float("inf")}, "guidance 0 or more"),
    ):
        with pytest.raises(EngineUnavailable) as caught:
            await streams.tokens(10, **options)
        assert sentence in caught.value.__notes__[0]
    assert len(await good) == 30


@module_loop
async def test_sequences_of_a_dead_gateway_stop(streams: GeneratorClient) -> None:
    """Must run last in this module: Triton may crash, and then the sequences stop as well."""
    gateway = Triton(streams.triton.url)
    call = gateway.streams.infer(streams.model, _inputs(CHANNELS))
    await anext(call)
    await gateway.close()
    async with asyncio.timeout(3):
        with contextlib.suppress(psutil.NoSuchProcess):
            while not await streams.idle():
                pass

"""CAR's step graph agrees with its checkpoint, and a real Triton streams tokens for texts."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
import torch
from numpy.typing import NDArray
from transformers import LlamaConfig, LlamaModel, Qwen3Config, Qwen3Model

from export.__main__ import main
from export.graphs import car_graph, generator_parity
from export.triton import generator_repository, repository
from export.triton.generator_backend import GeneratorSession, TextCondition, gumbel
from generator.car import model
from generator.car.model import NO_CLASS_TEXT, Car, text_of
from service.engine.embedded_triton import EmbeddedTriton
from service.errors import EngineUnavailable
from service.settings import Settings
from service.triton.client import Triton
from service.triton.models import Model
from tests.support.random_car import CLASSES, CODES, ODD_TEXTS, random_car

CHANNELS = 32
TEXT = "a photo of bee"


@pytest.fixture(scope="module")
def car() -> Car:
    return random_car(CHANNELS)


@pytest.fixture(scope="module")
def graph(car: Car) -> bytes:
    return car_graph.step_graph(car, "tiny").SerializeToString()


def start(car: Car, text: str) -> list[int]:
    """First ids of a sequence, by the tokenizer of `transformers`."""
    return [*(-2 - token for token in car.text(text)["input_ids"]), -1]


def test_step_graph_agrees_with_pytorch(car: Car, graph: bytes) -> None:
    texts = [NO_CLASS_TEXT, TEXT, "蜜蜂 " * 40]
    result = car_graph.parity(car, graph, texts)
    assert result.out_of_bounds == []
    assert result.tokens == 3 * CHANNELS
    assert car_graph.parity(random_car(CHANNELS, seed=1), graph, [TEXT], 8).out_of_bounds
    session = GeneratorSession(graph, threads=1)
    greedy, _ = generator_parity.greedy(session, [start(car, text) for text in texts], CHANNELS)
    assert greedy.tolist() == car.generate(texts, CHANNELS, seed=0, temperature=0.0).tolist()


def test_step_graph_takes_what_the_language_model_leaves(car: Car) -> None:
    metadata = {
        entry.key: entry.value for entry in car_graph.step_graph(car, "tiny").metadata_props
    }
    expected = {
        "family": "car",
        "channels": "32",
        "prompt_bytes": "992",  # of 1,024 positions
        "positions": "1024",
        "codes": "300",
        "bits_per_token": "9",
        "no_prompt": "a photo",
        "classes": json.dumps(CLASSES),
    }
    assert expected.items() <= metadata.items()


def test_step_graph_is_only_of_a_qwen3_with_room(car: Car) -> None:
    sizes = {
        "vocab_size": 257,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 96,
    }
    windows = Qwen3Config(**sizes, use_sliding_window=True, sliding_window=8, max_window_layers=1)
    for language, reason in (
        (LlamaModel(LlamaConfig(**sizes)), "is a LlamaModel; only a Qwen3Model"),
        (Qwen3Model(windows), "full attention"),
        (Qwen3Model(Qwen3Config(**sizes, max_position_embeddings=32)), "leaves none for a text"),
    ):
        other = Car(language, car.text, car.codewords, "0" * 16, CHANNELS, CLASSES)
        with pytest.raises(ValueError, match=reason):
            car_graph.step_graph(other, "tiny")


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_texts_are_read_as_in_training(car: Car, tmp_path: Path, text: str) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_text(car.text.backend_tokenizer.to_str())
    texts = TextCondition(file, NO_CLASS_TEXT, 1000)
    assert texts.start(np.frombuffer(text.encode(), np.uint8)) == start(car, text)
    assert texts.without == start(car, NO_CLASS_TEXT)


def test_command_exports_a_folder(
    car: Car, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    model.save(car, Path("words"))
    main(["generator", "words", "--report", "parity.json"])
    folder = Path("model_repository/words_generate")
    assert sorted(path.name for path in (folder / "1").iterdir()) == [
        "model.onnx",
        "model.py",
        "tokenizer.json",
    ]
    assert json.loads(Path("parity.json").read_text())["different_tokens"] == 0
    config = repository.parse((folder / "config.pbtxt").read_text())
    inputs = {tensor.name: list(tensor.dims) for tensor in config.input}
    assert inputs["prompt"] == [-1]
    assert "class" not in inputs
    main(["generator", "words"])
    assert [path.name for path in Path("model_repository").iterdir()] == ["words_generate"]
    Path("empty").mkdir()
    with pytest.raises(SystemExit, match="is not a generator checkpoint"):
        main(["generator", "empty"])
    monkeypatch.setattr(model, "Qwen3Model", object)
    monkeypatch.setattr(car_graph, "Qwen3Model", LlamaModel)
    with pytest.raises(SystemExit, match="words cannot be exported: its language model"):
        main(["generator", "words"])


def _inputs(
    prompt: str, length: int = CHANNELS, prefix: tuple[int, ...] = (), **sampling: float
) -> dict[str, NDArray[Any]]:
    padded = np.full(CHANNELS, -1, np.int32)
    padded[: len(prefix)] = prefix
    values = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "guidance": 1.0, **sampling}
    values.setdefault("final_temperature", values["temperature"])
    return {
        "prompt": np.frombuffer(prompt.encode(), np.uint8),
        "prefix": padded,
        "length": np.array([length], np.int32),
        "seed": np.array([7], np.int64),
        **{
            name: np.array([value], np.int32 if name == "top_k" else np.float32)
            for name, value in values.items()
        },
    }


class CarClient:
    """Calls a real Triton as the gateway does."""

    def __init__(self, triton: Triton, served: Model) -> None:
        self.triton, self.model = triton, served

    async def tokens(self, *arguments: Any, **options: Any) -> list[int]:
        """All tokens of a sequence."""
        tokens: list[int] = []
        async for response in self.triton.streams.infer(self.model, _inputs(*arguments, **options)):
            tokens += response["token"].tolist()
        return tokens


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def streams(
    car: Car, graph: bytes, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[CarClient]:
    folder = tmp_path_factory.mktemp("car") / "repository"
    text = car.text.backend_tokenizer.to_str()
    generator_repository.write(folder, graph, text_tokenizer=text)
    embedded = EmbeddedTriton(
        Settings(model_repository=folder, engine_instances=1, engine_threads=1)
    )
    triton = Triton(embedded.url)
    await embedded.start(triton)
    try:
        (served,) = await triton.models()
        yield CarClient(triton, served)
    finally:
        await triton.close()
        await embedded.stop()


module_loop = pytest.mark.asyncio(loop_scope="module")


@module_loop
async def test_backend_streams_the_graphs_tokens(
    streams: CarClient, car: Car, graph: bytes
) -> None:
    session = GeneratorSession(graph, threads=1)
    batch, expected = session.batch(1), []
    batch.begin(0, start(car, TEXT), temperature=1.0, top_k=0)
    for index in range(CHANNELS):
        batch.noise[0] = gumbel(7, index, 1, CODES)
        batch.step(1)
        batch.newest[0] = batch.next[0]
        expected.append(int(batch.next[0]))
    assert await streams.tokens(TEXT) == expected
    assert await streams.tokens(TEXT, prefix=tuple(expected[:9])) == expected[9:]
    greedy = car.generate([TEXT], CHANNELS, seed=0, temperature=0.0)[0]
    assert await streams.tokens(TEXT, temperature=0) == greedy.tolist()


@module_loop
async def test_backend_answers_every_text(streams: CarClient) -> None:
    """Alone as beside others, guided or not; no text is the text that stands for none."""
    texts = [*ODD_TEXTS, "", NO_CLASS_TEXT, *map(text_of, CLASSES)]
    calls = [
        {"prompt": text, "length": 5 + number, "guidance": (1.0, 4.0)[number % 2]}
        for number, text in enumerate(texts)
    ]
    alone = [await streams.tokens(**call) for call in calls]
    assert await asyncio.gather(*(streams.tokens(**call) for call in calls)) == alone
    assert await streams.tokens("") == await streams.tokens(NO_CLASS_TEXT)
    assert await streams.tokens("", guidance=4.0) == await streams.tokens("")
    assert await streams.tokens(TEXT, guidance=4.0) != await streams.tokens(TEXT)


@module_loop
async def test_backend_refuses_a_text_without_room(streams: CarClient) -> None:
    assert len(await streams.tokens("b" * 992)) == CHANNELS
    with pytest.raises(EngineUnavailable) as caught:
        await streams.tokens("b" * 993)
    assert "the prompt has 993 tokens; at most 992 fit" in caught.value.__notes__[0]
    broken = _inputs("")
    broken["prompt"] = np.array([0xFF], np.uint8)
    with pytest.raises(EngineUnavailable) as caught:
        async for _ in streams.triton.streams.infer(streams.model, broken):
            pass
    assert "the request is not valid" in caught.value.__notes__[0]
    assert len(await streams.tokens(TEXT)) == CHANNELS


def test_guidance_is_that_of_pytorch(car: Car, graph: bytes) -> None:
    session = GeneratorSession(graph, threads=1)
    batch = session.batch(2)
    for row, text in enumerate((TEXT, NO_CLASS_TEXT)):
        batch.begin(row, start(car, text), temperature=0.0, top_k=0, guidance=3.0)
    batch.link([0, 1])
    tokens: list[int] = []
    for _ in range(CHANNELS):
        with torch.inference_mode():
            so_far = torch.tensor([[*tokens, 0]])
            of, without = (car.logits(so_far, [text])[0, -1] for text in (TEXT, NO_CLASS_TEXT))
        batch.step(2)
        tokens.append(int(batch.next[0]))
        assert tokens[-1] == int((without + 3.0 * (of - without)).argmax())
        batch.newest[:, 0] = batch.next

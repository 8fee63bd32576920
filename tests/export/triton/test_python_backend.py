"""The python backend of tokenizers, with a fake of the module that exists only inside Triton."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from export.graphs import parity
from export.triton import python_backend, repository, triton_config
from tests.support.running import ROOT


@dataclass
class Tensor:
    name: str
    array: NDArray[Any]

    def as_numpy(self) -> NDArray[Any]:
        return self.array


class Request(list[Tensor]):
    """outputs: names of those that the request asks for."""

    outputs = ("tokens", "execution")

    def requested_output_names(self) -> list[str]:
        return list(self.outputs)


@dataclass
class Response:
    output_tensors: list[Tensor] = field(default_factory=list)
    error: str | None = None


@pytest.fixture
def triton(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module export.triton.python_backend, on a fake triton_python_backend_utils."""
    stub: Any = ModuleType("triton_python_backend_utils")
    stub.Tensor, stub.InferenceResponse, stub.TritonError = Tensor, Response, str
    stub.get_input_tensor_by_name = lambda request, name: next(
        (tensor for tensor in request if tensor.name == name), None
    )
    stub.Logger = type("Logger", (), {"log_error": staticmethod(lambda message: None)})
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", stub)
    spec = importlib.util.spec_from_file_location("model_of_triton", repository.MODEL_FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.openvino_core = python_backend.openvino_core  # type: ignore[attr-defined]
    return module


ENGINES = [("onnxruntime", "f32"), ("openvino", "f32"), ("openvino", "bf16")]


def loaded(
    triton: ModuleType,
    folder: Path,
    graph: bytes,
    threads: int = 1,
    engine: str = "onnxruntime",
    precision: str = "f32",
    instance: str = "model_0",
    lone_threads: int = 2,
) -> Any:
    (folder / "1").mkdir(exist_ok=True)
    (folder / "1/model.onnx").write_bytes(graph)
    model = triton.TritonPythonModel()
    parameters = {
        "threads": str(threads),
        "engine": engine,
        "precision": precision,
        "lone_threads": str(lone_threads),
    }
    entries = {name: {"string_value": value} for name, value in parameters.items()}
    config = json.dumps(
        {
            "parameters": entries,
            "max_batch_size": triton_config.CPU_MAX_BATCH,
            "dynamic_batching": {"preferred_batch_size": [triton_config.CPU_BATCH]},
        }
    )
    model.initialize(
        {
            "model_repository": str(folder),
            "model_version": "1",
            "model_config": config,
            "model_instance_name": instance,
        }
    )
    return model


def test_backend_gives_each_request_its_own_rows(
    triton: ModuleType, tmp_path: Path, encode: bytes, photos: NDArray[np.uint8]
) -> None:
    model = loaded(triton, tmp_path, encode)
    requests = [Request([Tensor("picture", part)]) for part in np.split(photos, [1, 4, 6])]
    requests[2].outputs = ("tokens",)
    responses = model.execute(requests)
    assert [len(response.output_tensors[0].array) for response in responses] == [1, 3, 2, 2]
    together = np.concatenate([response.output_tensors[0].array for response in responses])
    assert np.array_equal(together, parity.run(encode, photos))
    counters = [
        [tensor.array.tolist() for tensor in response.output_tensors[1:]] for response in responses
    ]
    ((nanoseconds, images), *_), *_ = counters[0]
    assert nanoseconds > 0
    assert images == len(photos)
    assert counters == [
        [[[nanoseconds, images]]],
        [[[nanoseconds, images]] * 3],
        [],
        [[[nanoseconds, images]] * 2],
    ]


def test_lone_instance_uses_more_threads_while_no_other_computes(
    triton: ModuleType,
    tmp_path: Path,
    encode: bytes,
    photos: NDArray[np.uint8],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = loaded(triton, tmp_path, encode, instance="lone_0")
    model.loading.join()
    other = loaded(triton, tmp_path, encode, instance="lone_0_0")  # of a model called lone
    other.finalize()  # has nothing to wait for
    assert other.run_alone is other.run
    runs = []
    run, run_alone = model.run, model.run_alone
    model.run = lambda feed: (runs.append("one thread"), run(feed))[1]
    model.run_alone = lambda feed: (runs.append("all cores"), run_alone(feed))[1]

    def answer() -> NDArray[Any]:
        (response,) = model.execute([Request([Tensor("picture", photos)])])
        tokens: NDArray[Any] = response.output_tensors[0].array
        return tokens

    monkeypatch.setattr(triton, "CROWD_SECONDS", 0)
    alone = answer()
    with other.computing as no_other_computes:
        assert no_other_computes
        assert np.array_equal(answer(), alone)
    assert np.array_equal(answer(), alone)
    assert runs == ["all cores", "one thread", "all cores"]
    monkeypatch.setattr(triton, "CROWD_SECONDS", 60)
    with other.computing:
        answer()
    answer()  # the other one may be back at once
    assert runs[3:] == ["one thread", "one thread"]


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("role", ["encode", "decode"])
def test_outputs_do_not_depend_on_the_number_of_threads(
    tmp_path: Path,
    role: str,
    engine: str,
    latents: bytes,
    decodes: dict[int, bytes],
    photos: NDArray[np.uint8],
) -> None:
    """Not by one bit: a lone image must have the tokens that it has in a crowd."""
    tokens = np.random.default_rng(0).integers(0, 2**16, (8, 256), dtype=np.int32)
    content, rows = (latents, photos) if role == "encode" else (decodes[256], tokens)
    graph = tmp_path / "model.onnx"
    graph.write_bytes(content)
    outputs = []
    for threads in (1, 2, 3, 4, 8):
        (name, *_), _, run = python_backend.load(graph, engine, "f32", threads, 4, 8)
        for size in (1, 4, 8):
            parts = [run({name: rows[i : i + size]})[0] for i in range(0, 8, size)]
            outputs.append(np.concatenate(parts))
    assert all(np.array_equal(output, outputs[0]) for output in outputs)


@pytest.fixture(scope="session")
def latents(encode: bytes) -> bytes:
    """The encode graph up to the latents, before the threshold."""
    parsed = onnx.load_model_from_string(encode)
    (threshold,) = (node for node in parsed.graph.node if node.op_type == "Greater")
    output = onnx.helper.make_tensor_value_info(
        threshold.input[0], onnx.TensorProto.FLOAT, ["batch", 256, 16]
    )
    parsed.graph.output[0].CopyFrom(output)
    return bytes(parsed.SerializeToString())


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("engine", "precision"), ENGINES)
@pytest.mark.parametrize("role", ["encode", "decode"])
def test_images_never_depend_on_their_neighbours(
    triton: ModuleType,
    tmp_path: Path,
    role: str,
    engine: str,
    precision: str,
    threads: int,
    latents: bytes,
    decodes: dict[int, bytes],
    photos: NDArray[np.uint8],
) -> None:
    """Equal to the last bit of the latents, so that no near tie can flip a token either."""
    tokens = np.random.default_rng(0).integers(0, 2**16, (8, 256), dtype=np.int32)
    graph, name, rows = (
        (latents, "picture", photos) if role == "encode" else (decodes[256], "tokens", tokens)
    )
    model = loaded(triton, tmp_path, graph, threads, engine, precision)

    def answers(order: list[int]) -> list[NDArray[Any]]:
        return [
            response.output_tensors[0].array
            for response in model.execute([Request([Tensor(name, rows[i][None])]) for i in order])
        ]

    alone = [answers([i])[0] for i in range(8)]

    @settings(max_examples=8, deadline=None, database=None)
    @given(st.lists(st.integers(0, 7), min_size=2, max_size=32))
    def law(order: list[int]) -> None:
        for i, answer in zip(order, answers(order), strict=True):
            assert np.array_equal(answer, alone[i])

    law()


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_openvino_agrees_with_onnxruntime(
    triton: ModuleType,
    tmp_path: Path,
    precision: str,
    encode: bytes,
    decodes: dict[int, bytes],
    photos: NDArray[np.uint8],
) -> None:
    """Bit-exact in f32. In bf16, for decode only, random weights move a pixel by 6, trained 2."""
    tokens = parity.run(encode, photos)
    decode = loaded(triton, tmp_path, decodes[256], engine="openvino", precision=precision)
    (response,) = decode.execute([Request([Tensor("tokens", tokens)])])
    difference = np.abs(
        response.output_tensors[0].array.astype(int) - parity.run(decodes[256], tokens)
    )
    assert difference.max() <= (1 if precision == "f32" else 8)
    assert difference.mean() < 1
    if precision == "f32":
        flips = (
            loaded(triton, tmp_path, encode, engine="openvino")
            .execute([Request([Tensor("picture", photos)])])[0]
            .output_tensors[0]
            .array
            ^ tokens
        )
        assert (
            np.unpackbits(flips.view(np.uint8)).sum()
            <= parity.Parity(8, tokens.size * 16, 0, ()).may_flip
        )


def test_onnxruntime_refuses_bf16(triton: ModuleType, tmp_path: Path, encode: bytes) -> None:
    with pytest.raises(ValueError, match="f32 here, not in bf16"):
        loaded(triton, tmp_path, encode, precision="bf16")


@pytest.mark.parametrize(("engine", "precision"), ENGINES)
def test_backend_fails_only_the_bad_request(
    triton: ModuleType,
    tmp_path: Path,
    engine: str,
    precision: str,
    encode: bytes,
    photos: NDArray[np.uint8],
) -> None:
    model = loaded(triton, tmp_path, encode, 1, engine, precision)
    good, wrong_shape, wrong_type = photos[:1], photos[:1, :64], photos[:1].astype(np.float64)
    bad = [Request([Tensor("picture", wrong_shape)]), Request()]
    if (
        engine == "onnxruntime"
    ):  # OpenVINO converts it; Triton itself refuses another type than config.pbtxt has
        bad.append(Request([Tensor("picture", wrong_type)]))
    right = Request([Tensor("picture", good)])
    requests = [right, *bad, right]
    responses = model.execute(requests)
    assert [response.error is None for response in responses] == [True, *[False] * len(bad), True]
    alone = model.execute(requests[:1])[0].output_tensors[0].array
    for response in (responses[0], responses[-1]):
        assert np.array_equal(response.output_tensors[0].array, alone)
    assert model.execute(requests[:1])[0].error is None


def test_backend_refuses_numpy_2(
    triton: ModuleType, tmp_path: Path, encode: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(np, "__version__", "2.1.0")
    with pytest.raises(RuntimeError, match=r"install numpy 1\.26"):
        loaded(triton, tmp_path, encode)


_SIGNAL_AFTER_ENGINES = """
import gc, os, signal, sys
from pathlib import Path
from export.triton import python_backend

signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
graph = Path(sys.argv[1])
first = python_backend.load(graph, "openvino", "f32", 1)
second = python_backend.load(graph, "openvino", "f32", 1)
del first
gc.collect()
del second
gc.collect()
os.kill(os.getpid(), signal.SIGUSR1)
"""


def test_process_survives_a_signal_after_its_engines_ended() -> None:
    """Each Core of OpenVINO had replaced the signal stack, and the last left one that was gone."""
    graph = ROOT / "model_repository/demo_encode/1/model.onnx"
    command = [sys.executable, "-c", _SIGNAL_AFTER_ENGINES, str(graph)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr

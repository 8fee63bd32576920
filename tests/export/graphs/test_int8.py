"""int8 decode graphs of the trained demo: which layers are int8, close images, batch invariance."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
from numpy.typing import NDArray

import imaging
from export.commands.tokenizer import DEMO
from export.graphs import graph, int8
from export.triton.python_backend import openvino_core
from tests.support import exported_graphs
from tests.support.photographs import crops
from tokenizer import checkpoint, inference
from tokenizer.evaluation import fidelity
from tokenizer.models.bsq import ABSENT
from tokenizer.models.channeltok import ChannelTok

Decode = Callable[[NDArray[np.int32]], NDArray[np.uint8]]


@pytest.fixture(scope="module")
def trained() -> ChannelTok:
    return checkpoint.load(DEMO)


@pytest.fixture(scope="module")
def plain(trained: ChannelTok) -> bytes:
    return exported_graphs.decode_graph(trained, "demo", 256)


def tokens_of(model: ChannelTok, count: int, seed: int) -> NDArray[np.int32]:
    return inference.encode(
        model, np.stack([imaging.prepare(data, 128) for data in crops(count, seed)])
    ).numpy()


@pytest.fixture(scope="module")
def quantised(trained: ChannelTok, plain: bytes) -> bytes:
    return int8.quantise(plain, tokens_of(trained, 8, seed=1))


@pytest.fixture(scope="module")
def tokens(trained: ChannelTok) -> NDArray[np.int32]:
    """Tokens of photographs that were not calibrated on; every other row is cut to k = 64."""
    found = tokens_of(trained, 8, seed=2)
    found[4:, 64:] = ABSENT
    return found


def compiled(model: bytes, precision: str, threads: int = 1) -> openvino.CompiledModel:
    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
    }
    core = openvino_core()
    compiled_model: openvino.CompiledModel = core.compile_model(
        core.read_model(model), "CPU", settings
    )
    return compiled_model


def decoder(model: bytes, precision: str, threads: int = 1) -> Decode:
    request = compiled(model, precision, threads).create_infer_request()
    return lambda tokens: np.array(request.infer({0: tokens})[0])


@pytest.mark.skipif(
    "amx_int8" in Path("/proc/cpuinfo").read_text(),
    reason="with AMX OpenVINO runs one of the 17 in int8: decision 12",
)
def test_quantise_converts_only_3x3_convolutions(quantised: bytes) -> None:
    """Checked in OpenVINO's compiled model, not only in the file."""
    kinds = [
        operator.get_rt_info()["primitiveType"].astype(str)
        for operator in compiled(quantised, "f32").get_runtime_model().get_ops()
        if operator.get_rt_info()["layerType"].astype(str) == "Convolution"
    ]
    assert len(kinds) == 28
    assert sum(kind.endswith("_I8") for kind in kinds) == 17
    assert not any(kind.endswith("_I8") for kind in kinds if "1x1" in kind)


def test_quantise_shrinks_the_file_and_keeps_metadata(quantised: bytes, plain: bytes) -> None:
    ours, theirs = onnx.load_model_from_string(quantised), onnx.load_model_from_string(plain)
    assert len(quantised) < 0.7 * len(plain)
    assert graph.read_metadata(ours) == graph.read_metadata(theirs)
    assert (ours.graph.input, ours.graph.output) == (theirs.graph.input, theirs.graph.output)


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_int8_images_stay_close_to_fp32(
    quantised: bytes, plain: bytes, tokens: NDArray[np.int32], precision: str
) -> None:
    """precision: of the operators that are not int8."""
    assert (
        fidelity.psnr(decoder(plain, "f32")(tokens), decoder(quantised, precision)(tokens)).min()
        >= 40
    )


@pytest.mark.parametrize("threads", [1, 2])
def test_int8_images_never_depend_on_their_neighbours(
    quantised: bytes, tokens: NDArray[np.int32], threads: int
) -> None:
    decode = decoder(quantised, "bf16", threads)
    alone = np.concatenate([decode(row[None]) for row in tokens])
    for order in (
        [0, 1],
        [7, 0, 3],
        [2, 2, 6, 5, 1],
        list(range(8)),
        [*range(7, -1, -1), 4, *range(8)],
    ):
        assert np.array_equal(decode(tokens[order]), alone[order])


def test_quantise_refuses_a_foreign_graph() -> None:
    with pytest.raises(ValueError, match="metadata"):
        int8.quantise(onnx.ModelProto().SerializeToString(), np.zeros((1, 256), np.int32))

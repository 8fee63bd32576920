"""fp16 decode graphs: which convolutions are converted, and images close to fp32."""

import copy

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from export.graphs import fp16, graph, parity
from tokenizer.models.channeltok import ChannelTok


@pytest.fixture(scope="module")
def decode(model: ChannelTok) -> onnx.ModelProto:
    converted = copy.deepcopy(model)
    fp16.convert_convolutions(converted.decoder)
    return graph.decode_graph(converted, "demo", 256)


def test_convert_convolutions_keeps_only_the_last_in_fp32(decode: onnx.ModelProto) -> None:
    types = {tensor.name: tensor.data_type for tensor in decode.graph.initializer}
    types |= {
        node.output[0]: node.attribute[0].i for node in decode.graph.node if node.op_type == "Cast"
    }  # weights stored as fp16
    weights = {
        op: [types[node.input[1]] for node in decode.graph.node if node.op_type == op]
        for op in ("Conv", "GroupNormalization")
    }
    assert weights["Conv"] == [
        *[onnx.TensorProto.FLOAT16] * (len(weights["Conv"]) - 1),
        onnx.TensorProto.FLOAT,
    ]
    assert set(weights["GroupNormalization"]) == {onnx.TensorProto.FLOAT}


def test_fp16_images_match_fp32(
    decode: onnx.ModelProto, decodes: dict[int, bytes], encode: bytes, photos: NDArray[np.uint8]
) -> None:
    tokens = parity.run(encode, photos)
    ours, theirs = (
        parity.run(one, tokens).astype(np.int16)
        for one in (decode.SerializeToString(), decodes[256])
    )
    assert np.abs(ours - theirs).max() <= 2


def test_fp16_graph_keeps_the_fingerprint(
    decode: onnx.ModelProto, decodes: dict[int, bytes]
) -> None:
    assert (
        graph.read_metadata(decode).fingerprint
        == graph.read_metadata(onnx.load_model_from_string(decodes[256])).fingerprint
    )


def test_convert_convolutions_converts_encoders(model: ChannelTok) -> None:
    converted = copy.deepcopy(model)
    fp16.convert_convolutions(converted.encoder, keep=())
    assert {node.op_type for node in graph.encode_graph(converted, "demo").graph.node} >= {
        "Conv",
        "GroupNormalization",
    }

"""Tokenizer graphs: operators, tensors, metadata, fp16 storage and parity with PyTorch."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from export.graphs import graph, parity
from tokenizer import checkpoint, inference
from tokenizer.models.channeltok import ChannelTok

# TensorRT supports all of these; it does not support BitShift, BitwiseAnd and Unique, for example.
OPERATORS = (
    "Add Cast Clip Concat Conv DepthToSpace Div Equal Gather Greater GroupNormalization Less "
    "MatMul Mul Not Pad ReduceSum Reshape Resize Round Shape Sigmoid Slice Softmax Sub Transpose "
    "Unsqueeze Where"
)


def test_graphs_use_only_supported_operators(encode: bytes, decodes: dict[int, bytes]) -> None:
    for data in (encode, *decodes.values()):
        parsed = onnx.load_model_from_string(data)
        assert [(entry.domain, entry.version) for entry in parsed.opset_import] == [("", 21)]
        assert {node.op_type for node in parsed.graph.node} <= set(OPERATORS.split())
        assert not parsed.functions
        # TensorRT takes uint8 only at the edge of a network: its cast is first or last.
        for tensor in (*parsed.graph.input, *parsed.graph.output):
            if tensor.type.tensor_type.elem_type == onnx.TensorProto.UINT8:
                neighbours = [
                    node for node in parsed.graph.node if tensor.name in (*node.input, *node.output)
                ]
                assert [node.op_type for node in neighbours] == ["Cast"]


def test_graphs_have_named_tensors_and_a_dynamic_batch(
    encode: bytes, decodes: dict[int, bytes]
) -> None:
    def signature(data: bytes) -> list[tuple[str, str, list[object]]]:
        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        return [
            (tensor.name, tensor.type, tensor.shape)
            for tensor in (*session.get_inputs(), *session.get_outputs())
        ]

    image, tokens = (
        ("picture", "tensor(uint8)", ["batch", 128, 128, 3]),
        ("tokens", "tensor(int32)", ["batch", 256]),
    )
    assert signature(encode) == [image, tokens]
    assert signature(decodes[256]) == [tokens, image]
    assert signature(decodes[32]) == [("tokens", "tensor(int32)", ["batch", 32]), image]


def test_graphs_agree_with_pytorch(
    model: ChannelTok, encode: bytes, decodes: dict[int, bytes], photos: NDArray[np.uint8]
) -> None:
    result = parity.measure(model, encode, decodes, photos)
    assert result.out_of_bounds == []
    assert result.bits == len(photos) * 256 * 16


@pytest.mark.parametrize("budget", [1, 100])
def test_larger_graph_decodes_any_budget(
    model: ChannelTok, decodes: dict[int, bytes], photos: NDArray[np.uint8], budget: int
) -> None:
    tokens = inference.encode(model, photos[:2])
    absent = tokens.numpy().copy()
    absent[:, budget:] = -1
    difference = inference.decode(model, tokens, budget).astype(int) - parity.run(
        decodes[256], absent
    )
    assert np.abs(difference).max() <= parity.MAX_PIXEL_DIFFERENCE


def test_budget_graph_equals_the_full_graph_with_absent_tokens(decodes: dict[int, bytes]) -> None:
    tokens = np.random.default_rng(0).integers(0, 2**16, (3, 256), dtype=np.int32)
    tokens[:, 32:] = -1
    assert np.array_equal(parity.run(decodes[32], tokens[:, :32]), parity.run(decodes[256], tokens))


def test_graph_distinguishes_absent_from_index_zero(decodes: dict[int, bytes]) -> None:
    absent = parity.run(decodes[256], np.full((1, 256), -1, dtype=np.int32))
    zero = parity.run(decodes[256], np.zeros((1, 256), dtype=np.int32))
    assert not np.array_equal(absent, zero)


def test_store_as_fp16_changes_no_bit(
    monkeypatch: pytest.MonkeyPatch, model: ChannelTok, photos: NDArray[np.uint8]
) -> None:
    class Latents(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = model.encoder

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            latents: torch.Tensor = self.encoder(
                image.to(torch.float32).permute(0, 3, 1, 2) / 127.5 - 1
            )
            return latents

    with monkeypatch.context() as patch:
        patch.setattr(graph, "store_as_fp16", lambda _: None)
        exported = graph.to_onnx(
            Latents(), torch.zeros(2, 128, 128, 3, dtype=torch.uint8), "picture", "latents"
        )
    large = exported.SerializeToString()
    graph.store_as_fp16(exported)
    small = exported.SerializeToString()
    assert np.array_equal(parity.run(small, photos), parity.run(large, photos))
    assert len(small) < 0.52 * len(large)


def test_store_as_fp16_keeps_weights_that_fp16_cannot_hold() -> None:
    def stored(values: list[float]) -> onnx.ModelProto:
        weight = onnx.numpy_helper.from_array(np.array(values, dtype=np.float32), "w")
        tensor = [
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in "xy"
        ]
        add = onnx.helper.make_node("Add", ["x", "w"], ["y"])
        model = onnx.helper.make_model(
            onnx.helper.make_graph([add], "g", tensor[:1], tensor[1:], [weight])
        )
        graph.store_as_fp16(model)
        return model

    assert stored([0.5, -0.25]).graph.initializer[0].data_type == onnx.TensorProto.FLOAT16
    for values in ([0.5, 0.1], [0.5, 1e6], [0.5, float("nan")]):
        assert stored(values).graph.initializer[0].data_type == onnx.TensorProto.FLOAT


def test_read_metadata_describes_a_graph(
    model: ChannelTok, encode: bytes, decodes: dict[int, bytes]
) -> None:
    fingerprint = checkpoint.fingerprint(model)
    assert graph.read_metadata(onnx.load_model_from_string(encode)) == graph.ModelMetadata(
        "demo", "encode", 256, 128, 256, fingerprint
    )
    assert graph.read_metadata(onnx.load_model_from_string(decodes[32])) == graph.ModelMetadata(
        "demo", "decode", 32, 128, 256, fingerprint
    )
    with pytest.raises(ValueError, match="not written by"):
        graph.read_metadata(onnx.ModelProto())


def test_graph_has_no_paths_of_the_exporting_machine(encode: bytes) -> None:
    assert b".py" not in encode
    assert b"stack_trace" not in encode


@pytest.mark.parametrize("budget", [0, 257])
def test_decode_graph_refuses_a_budget_outside_the_channels(model: ChannelTok, budget: int) -> None:
    with pytest.raises(ValueError, match="between 1 and the 256 channels"):
        graph.decode_graph(model, "demo", budget)

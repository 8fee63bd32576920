"""Graphs of CVQ and FlexTok: metadata, parity with PyTorch, and less work for fewer tokens."""

import numpy as np
import onnx
import pytest

from export.graphs import graph, parity
from export.graphs.random_model import random_of
from tests.export.conftest import photos_of_side
from tests.support import exported_graphs
from tokenizer.models.channeltok import ShuffleShape
from tokenizer.models.cvq import CvqShape
from tokenizer.models.flextok import FlexShape

SMALL = (
    CvqShape(backbone=ShuffleShape(channels=32, widths=(32, 32, 32, 32)), vocab_size=300),
    FlexShape(image_size=32, registers=32, width=64, encoder_depth=1, decoder_depth=1, steps=2),
)


@pytest.mark.parametrize("shape", SMALL, ids=lambda shape: shape.kind)
def test_graphs_carry_metadata_and_agree_with_pytorch(shape: CvqShape | FlexShape) -> None:
    model = random_of(shape)
    encode = exported_graphs.encode_graph(model, "small")
    decodes = {k: exported_graphs.decode_graph(model, "small", k) for k in (4, 32)}
    result = parity.measure(model, encode, decodes, photos_of_side(shape.image_size))
    assert result.out_of_bounds == []
    prefix_graph = onnx.load_model_from_string(decodes[4])
    metadata = graph.read_metadata(prefix_graph)
    assert (metadata.family, metadata.budget, metadata.bits_per_token, metadata.codes) == (
        shape.kind,
        4,
        model.bits_per_token,
        model.vocab_size,
    )
    if isinstance(shape, CvqShape):
        nearest = [kind for kind in _operators(encode) if kind in ("MatMul", "ArgMin")]
        assert nearest[-2:] == ["MatMul", "ArgMin"]
        assert "Gather" in _operators(decodes[32])
    else:
        tokens = np.arange(4, dtype=np.int32)[None] * 1000
        padded = np.pad(tokens, ((0, 0), (0, 28)), constant_values=-1)
        difference = parity.run(decodes[4], tokens).astype(int) - parity.run(decodes[32], padded)
        assert np.abs(difference).max() <= parity.MAX_PIXEL_DIFFERENCE
        onnx.checker.check_model(prefix_graph)


def _operators(model: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_model_from_string(model).graph.node]

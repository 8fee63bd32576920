"""The graphs of the other families: what they say, that they do what the model does, and that fewer tokens are less work."""

import numpy as np
import onnx
import pytest

from export.graphs import graph, parity
from tests.export.conftest import photos_of_side
from tokenizer.models.base import Tokenizer
from tokenizer.models.blocks import parameter_count
from tokenizer.models.channeltok import ShuffleShape
from tokenizer.models.cvq import CvqShape
from tokenizer.models.flextok import FlexShape

SMALL = (
    CvqShape(backbone=ShuffleShape(channels=32, widths=(32, 32, 32, 32)), codes=300),
    FlexShape(image_size=32, registers=32, width=64, encoder_depth=1, decoder_depth=1, steps=2),
)


def random(shape: CvqShape | FlexShape) -> Tokenizer:
    import torch

    torch.manual_seed(0)
    model = shape.build().half().float()
    with torch.no_grad():
        for weight in model.parameters():
            if not weight.any():
                weight.normal_(std=0.05)
    assert parameter_count(model)
    return model.eval()


@pytest.mark.parametrize("shape", SMALL, ids=lambda shape: shape.kind)
def test_parity_and_facts(shape: CvqShape | FlexShape) -> None:
    model = random(shape)
    encode = graph.encode_graph(model, "one")
    decodes = {budget: graph.decode_graph(model, "one", budget) for budget in (4, 32)}
    serialised = {budget: decode.SerializeToString() for budget, decode in decodes.items()}
    result = parity.measure(
        model, encode.SerializeToString(), serialised, photos_of_side(shape.image_size)
    )
    assert result.out_of_bounds == []
    said = graph.facts(decodes[4])
    assert (said.family, said.budget, said.bits_per_token, said.codes) == (
        shape.kind,
        4,
        model.bits_per_token,
        model.codes,
    )
    if isinstance(shape, CvqShape):
        ends = [node.op_type for node in encode.graph.node if node.op_type in ("MatMul", "ArgMin")]
        assert ends[-2:] == ["MatMul", "ArgMin"]
        assert "Gather" in {node.op_type for node in decodes[32].graph.node}
    else:
        tokens = np.arange(4, dtype=np.int32)[None] * 1000
        padded = np.pad(tokens, ((0, 0), (0, 28)), constant_values=-1)
        difference = parity.run(serialised[4], tokens).astype(int) - parity.run(
            serialised[32], padded
        )
        assert np.abs(difference).max() <= parity.MAX_PIXEL_DIFFERENCE
        onnx.checker.check_model(decodes[4])

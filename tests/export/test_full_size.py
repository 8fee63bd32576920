"""The paper's 159 M model goes the same way as the demo's."""

import pytest

from export import graph, parity
from tests.export.conftest import photos_of_side, random_model
from tokenizer.blocks import parameter_count


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_full_size_exports_and_agrees() -> None:
    model = random_model("full")
    assert parameter_count(model) == 159_305_603
    encode = graph.encode_graph(model, "full").SerializeToString()
    decodes = {512: graph.decode_graph(model, "full", 512).SerializeToString()}
    result = parity.measure(model, encode, decodes, photos_of_side(256)[:2])
    assert result.out_of_bounds == []

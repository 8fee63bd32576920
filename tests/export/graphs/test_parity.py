"""Parity rejects graphs of other weights and values beyond its bounds."""

import numpy as np
import onnx
from numpy.typing import NDArray

from export.graphs import parity
from tokenizer.models.channeltok import ChannelTok


def test_parity_rejects_a_graph_of_other_weights(
    model: ChannelTok, encode: bytes, decodes: dict[int, bytes], photos: NDArray[np.uint8]
) -> None:
    def spoilt(data: bytes) -> bytes:
        parsed = onnx.load_model_from_string(data)
        weight = max(parsed.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        weight.raw_data = np.negative(np.frombuffer(weight.raw_data, np.float16)).tobytes()
        return bytes(parsed.SerializeToString())

    result = parity.measure(model, spoilt(encode), {256: spoilt(decodes[256])}, photos[:2])
    assert len(result.out_of_bounds) == 2


def test_parity_allows_values_at_the_bounds() -> None:
    allowed = parity.Parity(10, 1_000_000, 10, (parity.Pixels(256, 1, 0.1),))
    assert allowed.out_of_bounds == []
    broken = parity.Parity(
        10, 1_000_000, 11, (parity.Pixels(32, 1, 0.1), parity.Pixels(256, 2, 0.1))
    )
    assert [sentence.split()[0] for sentence in broken.out_of_bounds] == ["at", "11"]


def test_parity_table_has_every_figure() -> None:
    result = parity.Parity(10, 1_000_000, 3, (parity.Pixels(32, 1, 0.25),))
    assert result.figures() == {
        "photos": 10,
        "bits": 1_000_000,
        "flipped_bits": 3,
        "k32_largest_pixel_difference": 1,
        "k32_mean_pixel_difference": 0.25,
    }
    assert "1,000,000" in result.table()
    assert "k = 32" in result.table()

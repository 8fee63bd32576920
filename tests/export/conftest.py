"""One tokenizer of the demo's shape with random weights, its graphs, and photographs: exported once for the whole session."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import pictures
from export import graph
from tests.photographs import crops
from tokenizer.channeltok import SIZES, ChannelTok


def random_model(size: str) -> ChannelTok:
    """Random fp16 weights; what training starts at zero is random too, for a zero would hide what it is multiplied with."""
    torch.manual_seed(0)
    model = ChannelTok(SIZES[size])
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.05)
    return model.half().float().eval()


def photos_of_side(side: int) -> NDArray[np.uint8]:
    """uint8 [8, side, side, 3], by the picture contract."""
    return np.stack([pictures.prepare(data, side) for data in crops(8)])


@pytest.fixture(scope="session")
def model() -> ChannelTok:
    return random_model("demo")


@pytest.fixture(scope="session")
def photos() -> NDArray[np.uint8]:
    return photos_of_side(128)


@pytest.fixture(scope="session")
def encode(model: ChannelTok) -> bytes:
    return graph.encode_graph(model, "demo").SerializeToString()


@pytest.fixture(scope="session")
def decodes(model: ChannelTok) -> dict[int, bytes]:
    return {budget: graph.decode_graph(model, "demo", budget).SerializeToString() for budget in (32, 256)}

"""A tokenizer of the demo's shape with random weights, its exported graphs, and photographs."""

import numpy as np
import pytest
from numpy.typing import NDArray

import imaging
from export.graphs.random_model import random_model
from tests.support import exported_graphs
from tests.support.photographs import crops
from tokenizer.models.channeltok import ChannelTok


def photos_of_side(side: int) -> NDArray[np.uint8]:
    """Eight prepared photographs, uint8 [8, side, side, 3]."""
    return np.stack([imaging.prepare(data, side) for data in crops(8)])


@pytest.fixture(scope="session")
def model() -> ChannelTok:
    return random_model("demo")


@pytest.fixture(scope="session")
def photos() -> NDArray[np.uint8]:
    return photos_of_side(128)


@pytest.fixture(scope="session")
def encode(model: ChannelTok) -> bytes:
    return exported_graphs.encode_graph(model, "demo")


@pytest.fixture(scope="session")
def decodes(model: ChannelTok) -> dict[int, bytes]:
    return {budget: exported_graphs.decode_graph(model, "demo", budget) for budget in (32, 256)}

"""Precisions: inputs and outputs stay fp32, and images stay close."""

import pytest
import torch

from export.acceptance.bare import precision
from export.acceptance.bare.numerics import on_cpu
from export.acceptance.bare.precision import Precision, computing, prepared
from export.acceptance.bare.scale import REHEARSAL
from export.graphs.graph import Decode, Encode
from export.graphs.random_model import random_of
from tokenizer.models.base import Tokenizer

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model() -> Tokenizer:
    return random_of(REHEARSAL.full)


@pytest.mark.parametrize("kind", precision.ALL, ids=lambda kind: kind.name)
def test_precisions_decode_nearly_the_same_image(model: Tokenizer, kind: Precision) -> None:
    torch.manual_seed(0)
    size = model.shape.image_size
    photos = torch.randint(256, (2, size, size, 3), dtype=torch.uint8)
    due = on_cpu(model, photos, 60)
    ready = prepared(model, kind, CPU, channels_last=True)
    with computing(kind, CPU):
        tokens, pixels = Encode(ready)(photos), Decode(ready)(due.tokens)
    assert tokens.dtype == torch.int32
    assert pixels.dtype == torch.uint8
    assert (pixels.int() - due.pixels.int()).abs().float().mean() < 2
    # a token is 16 signs: most of them are the same, though some numbers are near 0
    same = [((tokens ^ due.tokens) >> bit & 1) == 0 for bit in range(16)]
    assert torch.stack(same).float().mean() > 0.95


def test_prepared_leaves_its_argument_unchanged(model: Tokenizer) -> None:
    prepared(model, precision.FP16_THROUGHOUT, CPU, channels_last=True)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_throughout_includes_norms(model: Tokenizer) -> None:
    ready = prepared(model, precision.BF16_THROUGHOUT, CPU, channels_last=False)
    assert {weight.dtype for weight in ready.parameters()} == {torch.bfloat16}
    mixed = prepared(model, precision.BF16, CPU, channels_last=False)
    assert {weight.dtype for weight in mixed.parameters()} == {torch.float32}

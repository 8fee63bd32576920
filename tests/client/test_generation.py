"""Messages of Generate; tests/system/test_generate.py tests both clients on a real service."""

from typing import Any

import pytest
from channeltok import (
    Generated,
    GenerateParams,
    GenerationEvent,
    GeneratorInfo,
    InternalError,
    InvalidInput,
    NewTokens,
    Preview,
    Started,
    Tokens,
)
from channeltok.generation import generate_request, read_event, read_generators
from channeltok.v1 import tokenizer_pb2 as pb


def test_generate_request_leaves_out_what_is_none() -> None:
    default = generate_request(GenerateParams())
    assert [field.name for field, _ in default.ListFields()] == ["preview_format"]
    zeros = generate_request(
        GenerateParams(
            k=0, seed=0, temperature=0, final_temperature=0, top_k=0, top_p=0, guidance=0
        )
    )
    optional = ("k", "seed", "temperature", "final_temperature", "top_k", "top_p", "guidance")
    assert all(zeros.HasField(name) for name in optional)


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"k": -1}, "BAD_K"),
        ({"previews": [4, -1]}, "BAD_K"),
        ({"seed": -1}, "BAD_SAMPLING"),
        ({"seed": 2**64}, "BAD_SAMPLING"),
        ({"top_k": 2**32}, "BAD_SAMPLING"),
        ({"preview_format": "gif"}, "UNSUPPORTED_FORMAT"),
    ],
)
def test_generate_params_refuse_what_no_message_can_carry(
    params: dict[str, Any], code: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        GenerateParams(**params)
    assert caught.value.code == code


@pytest.mark.parametrize(
    "response",
    [pb.GenerateResponse(), pb.GenerateResponse(finished=pb.GenerationFinished(tokens=b"CTOK"))],
)
def test_read_event_refuses_an_unreadable_reply(response: pb.GenerateResponse) -> None:
    with pytest.raises(InternalError):
        read_event(response)


TOKENS = Tokens([1, 2], "0123456789abcdef")


@pytest.mark.parametrize(
    ("response", "event"),
    [
        (
            pb.GenerateResponse(
                started=pb.GenerationStarted(
                    generator="g", tokenizer="t", fingerprint="f", seed=7, k=2
                )
            ),
            Started("g", "t", "f", 7, 2),
        ),
        (pb.GenerateResponse(tokens=pb.NewTokens(index=1, ids=[3, 4])), NewTokens(1, (3, 4))),
        (pb.GenerateResponse(preview=pb.Preview(k=2, image=b"png")), Preview(2, b"png")),
        (
            pb.GenerateResponse(
                finished=pb.GenerationFinished(tokens=TOKENS.to_bytes(), engine="onnxruntime f32")
            ),
            Generated(TOKENS, "onnxruntime f32"),
        ),
    ],
)
def test_read_event_returns_the_event(
    response: pb.GenerateResponse, event: GenerationEvent
) -> None:
    assert read_event(response) == event


def test_read_generators_returns_tuples_of_classes() -> None:
    info = GeneratorInfo("g", "gpt", "01", "t", "02", 256, ("cat", "dog"))
    assert read_generators(
        pb.ListGeneratorsResponse(generators=[pb.GeneratorInfo(**vars(info))])
    ) == [info]

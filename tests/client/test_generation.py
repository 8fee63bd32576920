"""Messages of Generate; tests/system/test_generate.py tests both clients on a real service."""

from typing import Any

import pytest
from channeltok import GenerateParams, InternalError, InvalidInput
from channeltok.generation import generate_request, read_event
from channeltok.v1 import tokenizer_pb2 as pb


def test_generate_request_leaves_out_what_is_none() -> None:
    default = generate_request(GenerateParams())
    assert [field.name for field, _ in default.ListFields()] == ["preview_format"]
    zeros = generate_request(GenerateParams(k=0, seed=0, temperature=0, top_k=0))
    assert all(zeros.HasField(name) for name in ("k", "seed", "temperature", "top_k"))


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

"""Generate's messages; that both clients speak to a real service is tested in tests/system/test_generate.py."""

from typing import Any

import pytest
from channeltok import InternalError, InvalidInput
from channeltok.generation import generate_request, read_event
from channeltok.v1 import tokenizer_pb2 as pb


def request(**wanted: Any) -> pb.GenerateRequest:
    absent = dict.fromkeys(
        ("class_name", "k", "seed", "prefix", "temperature", "top_k", "generator")
    )
    return generate_request(**{**absent, "previews": (), "preview_format": "png", **wanted})


def test_what_is_not_asked_for_is_absent() -> None:
    assert [field.name for field, _ in request().ListFields()] == ["preview_format"]
    zeros = request(k=0, seed=0, temperature=0, top_k=0)
    assert all(zeros.HasField(name) for name in ("k", "seed", "temperature", "top_k"))


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        ({"k": -1}, "BAD_K"),
        ({"previews": [4, -1]}, "BAD_K"),
        ({"seed": -1}, "BAD_SAMPLING"),
        ({"seed": 2**64}, "BAD_SAMPLING"),
        ({"top_k": 2**32}, "BAD_SAMPLING"),
        ({"preview_format": "gif"}, "UNSUPPORTED_FORMAT"),
    ],
)
def test_what_no_message_can_carry_is_refused_here(wanted: dict[str, Any], code: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        request(**wanted)
    assert caught.value.code == code


@pytest.mark.parametrize(
    "response",
    [pb.GenerateResponse(), pb.GenerateResponse(finished=pb.GenerationFinished(tokens=b"CTOK"))],
)
def test_an_answer_that_cannot_be_read_is_the_services_fault(response: pb.GenerateResponse) -> None:
    with pytest.raises(InternalError):
        read_event(response)

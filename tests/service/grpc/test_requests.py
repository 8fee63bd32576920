"""Requests: memory and size of the messages of a call, and fields that would take long to parse."""

from collections.abc import Callable

import grpc
import pytest
from channeltok.v1 import tokenizer_pb2 as pb

from service.core.memory import MAX_DOCUMENT_BYTES, MemoryBudget, most_bytes
from service.errors import BadRequest, ServiceError, TooLarge
from service.grpc.requests import MessageLimits, Requests
from service.grpc.server import IMAGES, SERVICE

MIB = 2**20
LIMITS = MessageLimits(5, 5, 4 * MIB, IMAGES)


class Sender:
    """A context whose messages are these."""

    def __init__(self, *messages: bytes) -> None:
        self._messages = list(messages)

    async def read(self) -> object:
        return self._messages.pop(0) if self._messages else grpc.aio.EOF


def requests(
    memory: MemoryBudget, rpc: str, parse: Callable[[bytes], object], *messages: bytes
) -> Requests:
    return Requests(Sender(*messages), f"/{SERVICE}/{rpc}", parse, LIMITS, memory)  # type: ignore[arg-type]


async def test_requests_keep_the_memory_of_a_single_message_until_they_are_closed() -> None:
    memory = MemoryBudget(100 * MIB)
    image = bytes(MIB)
    message = pb.EncodeRequest(image=image).SerializeToString()
    with requests(memory, "Encode", pb.EncodeRequest.FromString, message) as call:
        assert (await call.single()).image == image
        assert memory.reserved == most_bytes(len(message))
    assert memory.reserved == 0


async def test_requests_hand_over_the_memory_of_items() -> None:
    memory = MemoryBudget(100 * MIB)
    items = [pb.DecodeStreamRequest(id=number).SerializeToString() for number in range(3)]
    with requests(memory, "DecodeStream", pb.DecodeStreamRequest.FromString, *items) as call:
        assert (await anext(call)).id == 0
        first = call.take()
        assert (await anext(call)).id == 1
        assert memory.reserved == call.size == first.size + most_bytes(len(items[1]))
        first.release()
        assert (await anext(call)).id == 2  # nobody took the second
        assert memory.reserved == call.size == most_bytes(len(items[2]))
        call.take()
        with pytest.raises(StopAsyncIteration):
            await anext(call)
    assert memory.reserved == 0


LONG_NAME = pb.EncodeRequest(tokenizer="a" * MAX_DOCUMENT_BYTES).SerializeToString()
LONG_TOKENS = pb.DecodeRequest(tokens=bytes(MAX_DOCUMENT_BYTES)).SerializeToString()
PAD = bytes(MAX_DOCUMENT_BYTES)
REQUEST = pb.EncodeRequest(image=bytes(MIB), k=3, tokenizer="demo")
IMAGE = REQUEST.SerializeToString()
RAW = pb.EncodeRequest(pixels=pb.Pixels(width=1024, height=512, rgb=bytes(3 * MIB // 2)))
PIXELS = RAW.SerializeToString()
RAW_ITEM = pb.EncodeStreamRequest(id=1, request=RAW).SerializeToString()
ITEM = pb.EncodeStreamRequest(id=1, request=REQUEST).SerializeToString()
TINY = MAX_DOCUMENT_BYTES // 2 + 1  # fields of two bytes that are too many


@pytest.mark.parametrize(
    ("rpc", "message", "error"),
    [
        ("Encode", IMAGE, None),
        ("Encode", IMAGE + b"\x79" + bytes(8) + b"\x7d" + bytes(4), None),  # unknown fields
        ("EncodeStream", ITEM, None),
        ("Encode", PIXELS, None),
        ("EncodeStream", RAW_ITEM, None),
        ("Encode", IMAGE + PIXELS, None),  # the method refuses it
        ("Encode", b"\x32\x82\x80\x04" + b"\x08\x01" * TINY, TooLarge),  # width, again and again
        ("Encode", b"\x10\x01" * TINY, TooLarge),  # k, again and again
        ("Encode", IMAGE + b"\x10\x01" * 40, TooLarge),
        ("Encode", LONG_NAME, TooLarge),
        ("Encode", b"\x22\x82\x80\x04" + b"\x78\x01" * TINY, TooLarge),
        ("EncodeStream", b"\x12\x82\x80\x04" + b"\x10\x01" * TINY, TooLarge),
        ("Encode", b"\x7b" * MIB, BadRequest),  # groups
        ("Encode", b"\xff" * MIB, BadRequest),
        ("Encode", b"\x0a\x80\x80\x40" + PAD + b"\x00", BadRequest),  # ends before its image
        ("Decode", LONG_TOKENS, TooLarge),
        ("Generate", b"\x40\x01" * TINY, TooLarge),
        ("ListTokenizers", b"\x78\x01" * TINY, TooLarge),
    ],
)  # fmt: skip
async def test_requests_refuse_large_messages_of_anything_but_an_image(
    rpc: str, message: bytes, error: type[ServiceError] | None
) -> None:
    kind = "EncodeStream" if rpc == "EncodeStream" else rpc
    parse = getattr(pb, f"{kind}Request").FromString
    assert len(message) > MAX_DOCUMENT_BYTES
    with requests(MemoryBudget(100 * MIB), rpc, parse, message) as call:
        if error is None:
            assert await call.single()
            return
        with pytest.raises(error):
            await call.single()

"""GuardedServer wraps all four kinds of methods, written in both ways that grpc.aio allows."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from service.core.memory import MemoryBudget
from service.core.rate_limit import caller
from service.core.refusals import Refusals
from service.grpc.aio_server import make_server
from service.grpc.connections import Connections
from service.grpc.entrance import GuardedServer
from service.grpc.requests import MessageLimits
from service.security.auth import Authenticator


async def one_to_one(request: StringValue, context: Any) -> StringValue:
    return StringValue(value=request.value + caller.get())


async def one_to_many(request: StringValue, context: Any) -> AsyncIterator[StringValue]:
    for character in request.value:
        yield StringValue(value=character)


async def one_to_many_written(request: StringValue, context: Any) -> None:
    for character in request.value:
        await context.write(StringValue(value=character))


async def many_to_one(requests: AsyncIterator[StringValue], context: Any) -> StringValue:
    return StringValue(value="".join([request.value async for request in requests]))


async def many_to_many(
    requests: AsyncIterator[StringValue], context: Any
) -> AsyncIterator[StringValue]:
    async for request in requests:
        yield request


@pytest.fixture
def memory() -> Iterator[MemoryBudget]:
    budget = MemoryBudget(2**30)
    yield budget
    assert budget.reserved == 0


@pytest.fixture
async def channel(memory: MemoryBudget) -> AsyncIterator[grpc.aio.Channel]:
    codec = {
        "request_deserializer": StringValue.FromString,
        "response_serializer": StringValue.SerializeToString,
    }
    methods = {
        "OneToOne": grpc.unary_unary_rpc_method_handler(one_to_one, **codec),
        "OneToMany": grpc.unary_stream_rpc_method_handler(one_to_many, **codec),
        "OneToManyWritten": grpc.unary_stream_rpc_method_handler(one_to_many_written, **codec),
        "ManyToOne": grpc.stream_unary_rpc_method_handler(many_to_one, **codec),
        "ManyToMany": grpc.stream_stream_rpc_method_handler(many_to_many, **codec),
    }
    server = make_server()
    guarded = GuardedServer(
        server,
        Authenticator(None),
        memory,
        Refusals(),
        MessageLimits(5, 5, 2**20, {}),
        connections=Connections(),
    )
    guarded.add_registered_method_handlers("test.Kinds", methods)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as connected:
        yield connected
    await server.stop(0)


async def test_guarded_server_serves_every_kind_of_method(channel: grpc.aio.Channel) -> None:
    codec = {
        "request_serializer": StringValue.SerializeToString,
        "response_deserializer": StringValue.FromString,
    }
    word, letters = StringValue(value="word"), [StringValue(value=letter) for letter in "word"]
    assert (
        await channel.unary_unary("/test.Kinds/OneToOne", **codec)(word)
    ).value == "wordaddress 127.0.0.1"
    for method in ("OneToMany", "OneToManyWritten"):
        assert [
            reply async for reply in channel.unary_stream(f"/test.Kinds/{method}", **codec)(word)
        ] == letters
    assert await channel.stream_unary("/test.Kinds/ManyToOne", **codec)(iter(letters)) == word
    assert [
        reply
        async for reply in channel.stream_stream("/test.Kinds/ManyToMany", **codec)(iter(letters))
    ] == letters


@pytest.mark.parametrize(
    "method", ["OneToOne", "OneToMany", "OneToManyWritten", "ManyToOne", "ManyToMany"]
)
@pytest.mark.parametrize("messages", [[b"\xff\xff"], []], ids=["malformed", "none"])
async def test_guarded_server_refuses_a_malformed_or_missing_message(
    channel: grpc.aio.Channel, method: str, messages: list[bytes]
) -> None:
    call = channel.stream_stream(f"/test.Kinds/{method}")(iter(messages))
    if not messages and method.startswith("Many"):
        assert b"".join([reply async for reply in call]) == b""
        return
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        [reply async for reply in call]
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "message" in str(caught.value.details())


async def test_guarded_server_knows_no_method_that_was_not_added(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel.unary_unary("/test.Kinds/None")(b"")
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED

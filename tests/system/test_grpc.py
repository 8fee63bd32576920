"""gRPC as generic clients speak it: errors of calls that no method takes, and reflection."""

import uuid

import grpc
import pytest
from channeltok import Client, InvalidInput
from channeltok.errors import from_rpc_error
from channeltok.v1 import tokenizer_pb2 as pb
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2

from tests.support.internals import internals
from tests.support.running import Service

SERVICE = pb.DESCRIPTOR.services_by_name["Tokenizer"].full_name
REFLECTION = {
    version: f"grpc.reflection.{version}.ServerReflection" for version in ("v1alpha", "v1")
}


@pytest.fixture
def channel(service: Service):  # type: ignore[no-untyped-def]
    with grpc.insecure_channel(service.grpc) as connected:
        yield connected


@pytest.mark.parametrize(
    "path", [f"/{SERVICE}/Nothing", "/nobody.Service/Encode", "/nothing", "/a/b/c/d"]
)
@pytest.mark.parametrize("message", [b"", b"\xff\xff"])
def test_unknown_methods_get_our_error_and_a_request_id(
    channel: grpc.Channel, path: str, message: bytes
) -> None:
    request_id = uuid.uuid4().hex
    for call in (
        lambda: channel.unary_unary(path)(
            message, timeout=20, metadata=[("x-request-id", request_id)]
        ),
        lambda: list(
            channel.stream_stream(path)(
                iter([message] * 3), timeout=20, metadata=[("x-request-id", request_id)]
            )
        ),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
        error = from_rpc_error(caught.value)
        assert (type(error), error.code) == (InvalidInput, "NO_SUCH_PATH")
        assert dict(caught.value.trailing_metadata())["x-request-id"] == request_id
        assert not internals(f"{error.message}{caught.value.trailing_metadata()}")


@pytest.mark.parametrize(
    "path",
    [
        f"/{SERVICE}/Encode",
        f"/{SERVICE}/EncodeStream",
        f"/{SERVICE}/Generate",
        *(f"/{name}/ServerReflectionInfo" for name in REFLECTION.values()),
    ],
)
def test_malformed_messages_get_our_error_and_a_request_id(
    channel: grpc.Channel, path: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        list(channel.unary_stream(path)(b"\xff\xff", timeout=20))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert from_rpc_error(caught.value).code == "BAD_REQUEST"
    assert len(dict(caught.value.trailing_metadata())["x-request-id"]) == 32


def test_a_message_that_grpc_refuses_is_too_large_for_our_client(client: Client) -> None:
    """gRPC ends the call itself, so there are no details: its text says what happened."""
    with pytest.raises(Exception, match="larger than max") as caught:
        client.encode(bytes(17 * 2**20))
    assert caught.value.code == "TOO_LARGE"  # type: ignore[attr-defined]


def ask(
    channel: grpc.Channel, version: str, *requests: reflection_pb2.ServerReflectionRequest
) -> list[reflection_pb2.ServerReflectionResponse]:
    """v1 has the messages of v1alpha in another package."""
    call = channel.stream_stream(
        f"/{REFLECTION[version]}/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    return list(call(iter(requests), timeout=20))


@pytest.mark.parametrize("version", REFLECTION)
def test_reflection_describes_every_service(channel: grpc.Channel, version: str) -> None:
    (listed,) = ask(channel, version, reflection_pb2.ServerReflectionRequest(list_services=""))
    names = {entry.name for entry in listed.list_services_response.service}
    assert names == {SERVICE, "grpc.health.v1.Health", *REFLECTION.values()}
    replies = ask(
        channel,
        version,
        *(reflection_pb2.ServerReflectionRequest(file_containing_symbol=name) for name in names),
    )
    described = set()
    for reply in replies:
        for file in map(
            FileDescriptorProto.FromString, reply.file_descriptor_response.file_descriptor_proto
        ):
            described |= {f"{file.package}.{entry.name}" for entry in file.service}
            if file.package == "grpc.reflection.v1":
                (method,) = file.service[0].method
                assert method.input_type == ".grpc.reflection.v1.ServerReflectionRequest"
    assert described == names

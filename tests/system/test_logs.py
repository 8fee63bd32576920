"""The log: which requests are logged, with which id, always as JSON and without callers' data."""

import json
import re
import socket
from typing import Any

import grpc
import httpx
import pytest
from channeltok import ChannelTokError, Client, InternalError
from channeltok.v1 import tokenizer_pb2 as pb
from channeltok.v1 import tokenizer_pb2_grpc

from tests.support.photographs import jpeg
from tests.support.running import Service, eventually, running

MADE = re.compile("[0-9a-f]{32}")
SECRET, IMAGE = "Bearer nobody-may-read-this", b"bytes of an image that nobody may read"


def lines(service: Service, event: str | None = None, **facts: Any) -> list[dict[str, Any]]:
    """Log lines with this event and these fields. Raises ValueError when a line is not JSON."""
    every = [json.loads(line) for line in list(service.log)]
    return [
        line for line in every if event in (None, line["event"]) and facts.items() <= line.items()
    ]


def id_over_rest(service: Service, sent: str | None, image: bytes) -> str:
    headers = {} if sent is None else {"x-request-id": sent}
    return str(
        httpx.post(f"{service.rest}/v1/encode", content=image, headers=headers, timeout=60).headers[
            "x-request-id"
        ]
    )


def id_over_grpc(service: Service, sent: str | None, image: bytes) -> str:
    metadata = () if sent is None else (("x-request-id", sent),)
    with grpc.insecure_channel(service.grpc) as channel:
        stub = tokenizer_pb2_grpc.TokenizerStub(channel)
        future = stub.Encode.future(pb.EncodeRequest(image=image), timeout=60, metadata=metadata)
        future.exception()  # waits, and does not raise
        return dict(future.trailing_metadata())["x-request-id"]


@pytest.mark.parametrize("call", [id_over_rest, id_over_grpc])
@pytest.mark.parametrize("image", [jpeg(), b"no image"], ids=["good", "bad"])
def test_valid_request_ids_are_returned_unchanged(
    service: Service, call: Any, image: bytes
) -> None:
    assert call(service, "7f9c2ba4-e88f-4a1b-9d7a.x:y_Z", image) == "7f9c2ba4-e88f-4a1b-9d7a.x:y_Z"
    first, second = call(service, None, image), call(service, None, image)
    assert MADE.fullmatch(first)
    assert first != second
    for insane in ("a" * 65, "two words", 'quo"te', "", "semi;colon", "<script>", "%0a", "{}"):
        assert MADE.fullmatch(call(service, insane, image)), insane


def test_every_reply_has_a_request_id(service: Service) -> None:
    for path in ("/nowhere", "/livez", "/v1/tokenizers", "/docs"):
        assert (
            httpx.get(service.rest + path, headers={"x-request-id": "mine"}).headers["x-request-id"]
            == "mine"
        )
    with grpc.insecure_channel(service.grpc) as channel:
        stub = tokenizer_pb2_grpc.TokenizerStub(channel)
        _, call = stub.ListTokenizers.with_call(
            pb.ListTokenizersRequest(), timeout=10, metadata=(("x-request-id", "mine"),)
        )
        assert dict(call.trailing_metadata())["x-request-id"] == "mine"
        stream = stub.EncodeStream(
            iter([pb.EncodeStreamRequest(id=1)]), timeout=30, metadata=(("x-request-id", "mine"),)
        )
        assert len(list(stream)) == 1
        assert dict(stream.trailing_metadata())["x-request-id"] == "mine"


def test_slow_calls_are_logged_once_with_their_stages() -> None:
    with running(slow_call_seconds="0.001") as service:
        id_over_rest(service, "slow-one", jpeg())
        id_over_grpc(service, "slow-two", jpeg())
        eventually(lambda: len(lines(service, "slow_call")) == 2, 10, "the lines")
        first, second = lines(service, "slow_call")
        assert (first["request_id"], second["request_id"]) == ("slow-one", "slow-two")
        assert (first["rpc"], first["k"], first["tokenizer"], first["code"]) == (
            "encode",
            256,
            "demo",
            "OK",
        )
        assert set(first["stages"]) == {"admission", "unpack", "engine_queue", "engine"}
        assert first["seconds"] >= sum(first["stages"].values()) * 0.99


def test_server_errors_are_logged_and_client_errors_are_not() -> None:
    with running(request_timeout_seconds="0.002") as service:  # too little for anything
        reply = httpx.post(
            f"{service.rest}/v1/encode", content=jpeg(), headers={"x-request-id": "late"}
        )
        assert reply.json()["code"] == "DEADLINE_EXCEEDED"
        # Refused before anything is waited for, so that no deadline can pass first.
        reply = httpx.post(
            f"{service.rest}/v1/encode?k=9999", content=jpeg(), headers={"x-request-id": "bad"}
        )
        assert reply.json()["code"] == "BAD_K"
        eventually(lambda: bool(lines(service, "call_failed")), 10, "the line")
        (line,) = lines(service, "call_failed")
        assert (line["request_id"], line["code"], line["level"]) == (
            "late",
            "DEADLINE_EXCEEDED",
            "error",
        )
        assert not lines(service, request_id="bad")
        assert not lines(service, "access")  # that is for level debug


def test_unexpected_exceptions_are_logged_once_without_data_of_callers() -> None:
    with running(("-m", "tests.support.programs.broken_encode")) as service:
        headers = {"x-request-id": "quote-me", "authorization": SECRET}
        reply = httpx.post(f"{service.rest}/v1/encode", content=IMAGE, headers=headers)
        assert (reply.status_code, reply.headers["x-request-id"]) == (500, "quote-me")
        assert reply.json()["detail"] == "internal error; it was logged under request id quote-me"
        assert id_over_grpc(service, "me-too", IMAGE) == "me-too"
        with (
            Client(service.grpc) as client,
            pytest.raises(InternalError, match=r"request id [0-9a-f]{32}"),
        ):
            client.encode(IMAGE)
        with Client(service.grpc) as client:
            (answer,) = client.encode_stream([IMAGE])
            assert re.search("request id [0-9a-f]{32}", str(answer))
        assert service.stop() == 0
        assert len(lines(service, "internal_error")) == 4
        (line,) = lines(service, "internal_error", request_id="quote-me")
        assert line["exception"][0]["exc_value"] == "deliberate"
        assert [line["event"] for line in lines(service, request_id="quote-me")] == [
            "internal_error"
        ]
        everything = "".join(service.log)
        assert "nobody" not in everything


def test_every_log_line_is_json() -> None:
    with running(log_level="debug", max_message_bytes="100000") as service:
        id_over_rest(service, "good", jpeg())
        with Client(service.grpc) as client:
            tokens = client.encode(jpeg(), 4)
            client.decode(tokens)
            list(client.encode_stream([jpeg(), b"bad", jpeg()]))
            with pytest.raises(ChannelTokError):
                client.encode(bytes(300_000))  # refused by gRPC itself
        httpx.post(f"{service.rest}/v1/encode", content=bytes(300_000))
        with grpc.insecure_channel(service.grpc) as channel:
            for method, request in (
                ("/channeltok.v1.Tokenizer/Encode", b"\xff\xff\xff"),
                ("/channeltok.v1.Tokenizer/Nothing", b""),
                ("/x", b""),
            ):
                with pytest.raises(grpc.RpcError):
                    channel.unary_unary(method)(request, timeout=10)
        rest_port, grpc_port = (
            int(address.rpartition(":")[2]) for address in (service.rest, service.grpc)
        )
        hello = bytes.fromhex("16030100a5010000a10303") + bytes(160)  # how TLS begins
        for port in (rest_port, grpc_port):
            for rubbish in (
                b"rubbish\r\n\r\n",
                b"\0" * 100,
                hello,
                b"POST /v1/encode HTTP/1.1\r\nContent-Length: 1000\r\n\r\nhalf",
            ):
                with socket.create_connection(("127.0.0.1", port)) as connection:
                    connection.sendall(rubbish)
        (stub, *_) = service.children("stub")
        stub.kill()
        id_over_rest(service, "dead-stub", jpeg())
        assert service.stop() == 0
        every = lines(service)
        assert all({"event", "level", "timestamp"} <= set(line) for line in every)
        assert {"good", "dead-stub"} <= {
            line.get("request_id") for line in lines(service, "access")
        }
        assert {"Encode", "EncodeStream", "Decode", "POST /v1/encode"} <= {
            line["call"] for line in lines(service, "access")
        }
        assert lines(service, logger="uvicorn.error")  # it complained of the rubbish, in JSON

"""Decode at several k in one call: gRPC, REST and the command, against the real service."""

import base64
import json
from email.parser import BytesParser
from email.policy import HTTP
from pathlib import Path
from typing import Any

import httpx
import pytest
from channeltok import AsyncClient, Client, InvalidInput, Tokens
from channeltok.cli import main as channeltok

from tests.support.bad_input import assert_problem
from tests.support.metrics import sample
from tests.support.photographs import jpeg
from tests.support.running import Service

KS = (32, 8, 16)  # not sorted


@pytest.fixture(scope="module")
def tokens(client: Client) -> Tokens:
    return client.encode(jpeg())


@pytest.fixture(scope="module")
def expected(client: Client, tokens: Tokens) -> dict[int, bytes]:
    """k -> the JPEG that a call of its own makes."""
    return {k: client.decode(tokens.prefix(k), "jpeg") for k in KS}


def post(
    rest: httpx.Client, tokens: Tokens, headers: dict[str, str] | None = None, **params: str
) -> httpx.Response:
    headers = {"Content-Type": "application/octet-stream", **(headers or {})}
    return rest.post("/v1/decode", params=params, content=tokens.to_bytes(), headers=headers)


def events_of(text: str) -> list[tuple[str, Any]]:
    frames = [frame.split("\n") for frame in text.split("\n\n") if frame]
    return [
        (name.removeprefix("event: "), json.loads(data.removeprefix("data: ")))
        for name, data in frames
    ]


def test_client_gets_each_prefix_in_the_order_of_the_request(
    client: Client, tokens: Tokens, expected: dict[int, bytes]
) -> None:
    previews = list(client.decode_progressive(tokens, KS, "jpeg"))
    assert [preview.k for preview in previews] == list(KS)
    assert {preview.k: preview.image for preview in previews} == expected


async def test_async_client_gets_the_same(
    service: Service, tokens: Tokens, expected: dict[int, bytes]
) -> None:
    async with AsyncClient(service.grpc) as client:
        previews = [one async for one in client.decode_progressive(tokens, KS, "jpeg")]
    assert [(preview.k, preview.image) for preview in previews] == [(k, expected[k]) for k in KS]


def test_rest_sends_a_preview_for_each_k_and_then_done(
    rest: httpx.Client, tokens: Tokens, expected: dict[int, bytes]
) -> None:
    reply = post(rest, tokens, k="32,8,16", format="jpeg")
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"].startswith("text/event-stream")
    *previews, (name, done) = events_of(reply.text)
    assert [event for event, _ in previews] == ["preview"] * 3
    assert [preview["k"] for _, preview in previews] == list(KS)
    assert {preview["media_type"] for _, preview in previews} == {"image/jpeg"}
    images = {preview["k"]: base64.b64decode(preview["image"]) for _, preview in previews}
    assert images == expected
    assert name == "done"
    assert done["fingerprint"] == tokens.fingerprint
    assert {"unpack", "admission", "engine", "render"} <= done["stages"].keys()


def test_rest_sends_a_part_for_each_k(
    rest: httpx.Client, tokens: Tokens, expected: dict[int, bytes]
) -> None:
    reply = post(rest, tokens, {"Accept": "multipart/mixed"}, k="32,8,16", format="jpeg")
    assert reply.status_code == 200, reply.text
    assert "engine" in reply.headers["server-timing"]
    head = f"Content-Type: {reply.headers['content-type']}\r\n\r\n".encode()
    parts: list[Any] = BytesParser(policy=HTTP).parsebytes(head + reply.content).get_payload()
    assert [part["content-type"] for part in parts] == ["image/jpeg"] * 3
    # The parser of e-mail would read lines into JPEGs, so the bytes are looked for.
    assert [int(part["channeltok-k"]) for part in parts] == list(KS)
    for k in KS:
        head = f"Content-Length: {len(expected[k])}\r\nChannelTok-K: {k}\r\n\r\n".encode()
        assert head + expected[k] + b"\r\n--" in reply.content


def test_rest_decodes_one_k_to_a_plain_image(
    rest: httpx.Client, tokens: Tokens, expected: dict[int, bytes]
) -> None:
    reply = post(rest, tokens, {"Accept": "image/jpeg"}, k="8")
    assert (reply.headers["content-type"], reply.content) == ("image/jpeg", expected[8])
    assert post(rest, tokens, k="8", format="jpeg").content == expected[8]
    assert post(rest, tokens, k="8").headers["content-type"] == "image/png"


def test_several_k_are_one_batch_of_the_engine_and_count_as_images(
    service: Service, client: Client, tokens: Tokens
) -> None:
    def figures() -> tuple[float, ...]:
        model, rpc = {"model": "demo_decode_k256"}, {"rpc": "decode_progressive"}
        return (
            sample(service, "channeltok_batch_size_count", **model),
            sample(service, "channeltok_batch_size_sum", **model),
            sample(service, "channeltok_request_seconds_count", code="OK", **rpc),
            sample(service, "channeltok_images_total", **rpc),
            sample(service, "channeltok_tokens_total", **rpc),
        )

    for _ in range(10):  # until no probe comes between
        before = figures()
        list(client.decode_progressive(tokens, KS))
        change = [after - earlier for after, earlier in zip(figures(), before, strict=True)]
        if change[0] == 3:
            break
    assert change == [3, 9, 1, 3, sum(KS)]


@pytest.mark.parametrize(
    ("ks", "why"),
    [
        ("8,8,16", "more than once"),
        ("8,257", "1 to 256"),
        ("0,8", "1 to 256"),
        ("8,", "commas"),
        ("8,-1", "1 to 256"),
        (",".join(map(str, range(1, 34))), "1 to 32"),
    ],
)
def test_k_that_cannot_be_decoded_is_refused_before_any_event(
    rest: httpx.Client, client: Client, tokens: Tokens, ks: str, why: str
) -> None:
    reply = post(rest, tokens, k=ks)
    assert_problem(reply, 422, "BAD_K")
    assert why in reply.json()["detail"]
    if why == "commas" or "-" in ks:
        return
    with pytest.raises(InvalidInput, match=why) as refused:
        list(client.decode_progressive(tokens, [int(k) for k in ks.split(",")]))
    assert refused.value.code == "BAD_K"


def test_no_k_and_k_above_the_tokens_are_refused(
    rest: httpx.Client, client: Client, tokens: Tokens
) -> None:
    with pytest.raises(InvalidInput, match="0 values of k"):
        list(client.decode_progressive(tokens, []))
    with pytest.raises(InvalidInput, match="not -1"):
        client.decode_progressive(tokens, [8, -1])
    assert_problem(post(rest, tokens.prefix(16), k="8,32"), 422, "BAD_K")
    assert_problem(post(rest, tokens.prefix(16), k="32"), 422, "BAD_K")


def test_types_that_several_images_do_not_have_are_refused(
    rest: httpx.Client, tokens: Tokens
) -> None:
    assert_problem(post(rest, tokens, {"Accept": "image/png"}, k="8,16"), 406, "NOT_ACCEPTABLE")
    assert_problem(post(rest, tokens, k="8,16", format="gif"), 415, "UNSUPPORTED_FORMAT")
    both = post(rest, tokens, {"Accept": "image/png"}, format="jpeg")
    assert_problem(both, 406, "NOT_ACCEPTABLE")


def test_command_writes_a_file_for_each_k(
    service: Service, tokens: Tokens, expected: dict[int, bytes], tmp_path: Path
) -> None:
    file = tmp_path / "cat.ctok"
    file.write_bytes(tokens.to_bytes())
    command = ["decode", str(file), "--server", service.grpc, "-o", str(tmp_path / "cat.jpg")]
    assert channeltok([*command, "--k", "32,8,16"]) == 0
    written = {k: (tmp_path / f"cat.k{k}.jpg").read_bytes() for k in KS}
    assert written == expected
    assert channeltok([*command, "-k", "8"]) == 0
    assert (tmp_path / "cat.jpg").read_bytes() == expected[8]
    assert channeltok(["decode", str(file), "-o", "-", "-k", "8,16"]) == 2

"""Many images, or token sequences, in one REST call, against the real service."""

import base64
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from channeltok import Client, Tokens

from tests.support.bad_input import BAD_IMAGES, assert_problem
from tests.support.metrics import sample
from tests.support.photographs import crops, jpeg
from tests.support.running import Service, eventually, running

LINES = {"Content-Type": "application/x-ndjson"}
MAX_ITEMS = 20
RPCS = ("encode", "decode")


@pytest.fixture(scope="module")
def small() -> Iterator[Service]:
    """A service with small limits."""
    settings = {
        "max_batch_items": str(MAX_ITEMS),
        "max_message_bytes": str(2**20),
        "receive_seconds": "1",
        "stream_window": "4",
        "send_seconds": "2",
    }
    with running(**settings) as started:
        yield started


def image_line(image: bytes, **fields: Any) -> str:
    return json.dumps({**fields, "image": base64.b64encode(image).decode()}) + "\n"


def post_lines(rest: httpx.Client, path: str, lines: Sequence[str], **params: str) -> Any:
    return rest.post(path, content="".join(lines), headers=LINES, params=params)


def replies(reply: httpx.Response) -> list[dict[str, Any]]:
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"] == "application/x-ndjson"
    assert reply.text == "" or reply.text.endswith("\n")
    return [json.loads(line) for line in reply.text.splitlines()]


def test_encode_batch_answers_each_part_in_order_as_encode_does(
    rest: httpx.Client, client: Client
) -> None:
    images = crops(40)
    files = [("image", (f"{number}.jpg", image)) for number, image in enumerate(images)]
    lines = replies(rest.post("/v1/encode:batch", files=files, params={"k": "32"}))
    assert [line["index"] for line in lines] == list(range(40))
    assert [line["id"] for line in lines] == [f"{number}.jpg" for number in range(40)]
    for line, image in zip(lines, images, strict=True):
        tokens = client.encode(image, 32)
        assert Tokens(line["tokens"], line["fingerprint"]) == tokens
        assert tokens.view is not None
        assert line["view"]["width"] == tokens.view.width


def test_encode_batch_takes_lines_of_base64_with_ids(rest: httpx.Client, client: Client) -> None:
    first, second, third = crops(3)
    body = [image_line(first, id="a"), "\r\n", image_line(second, id=7), image_line(third)]
    lines = replies(post_lines(rest, "/v1/encode:batch", body, quality="max_bytes=64"))
    assert [(line["index"], line.get("id")) for line in lines] == [(0, "a"), (1, 7), (2, None)]
    assert "id" not in lines[2]
    assert {line["k"] for line in lines} <= set(range(1, 33))
    assert all(line["curve"] for line in lines)
    assert lines[0]["tokens"] == client.encode(first, lines[0]["k"]).ids.tolist()


def test_decode_batch_takes_what_encode_batch_returns(rest: httpx.Client, client: Client) -> None:
    wide = jpeg("coffee")
    encoded = rest.post(
        "/v1/encode:batch", files=[("image", wide), ("image", jpeg())], params={"fit": "pad"}
    )
    seen = client.encode(wide, fit="pad")
    token_bytes = {"id": "b", "tokens": base64.b64encode(seen.to_bytes()).decode()}
    body = [encoded.text, json.dumps(token_bytes)]  # without a line end
    lines = replies(post_lines(rest, "/v1/decode:batch", body, format="jpeg"))
    assert [line["index"] for line in lines] == [0, 1, 2]
    assert {line["media_type"] for line in lines} == {"image/jpeg"}
    images = [base64.b64decode(line["image"]) for line in lines]
    assert images[0] == client.decode(seen, "jpeg")  # without its bands, as its view says
    assert images[2] == client.decode(seen, "jpeg", aspect=(1, 1))
    assert lines[2]["id"] == "b"


def test_bad_image_costs_its_own_line(rest: httpx.Client, client: Client) -> None:
    good = jpeg()
    files = [("image", good)]
    for bad, _, _ in BAD_IMAGES.values():
        files += [("image", bad), ("image", good)]
    lines = replies(rest.post("/v1/encode:batch", files=files))
    expected = client.encode(good).ids.tolist()
    assert [line["tokens"] == expected for line in lines[::2]] == [True] * (len(BAD_IMAGES) + 1)
    errors = [(line["code"], line["status"]) for line in lines[1::2]]
    assert errors == [(code, status) for _, code, status in BAD_IMAGES.values()]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("nonsense", "BAD_REQUEST"),
        ("[]", "BAD_REQUEST"),
        ("{}", "BAD_REQUEST"),
        ('{"image": "???"}', "BAD_REQUEST"),
        ('{"image": 5, "id": "x"}', "BAD_REQUEST"),
        ('{"id": [], "image": ""}', "BAD_REQUEST"),
        (json.dumps({"id": "x" * 201, "image": ""}), "BAD_REQUEST"),
        ('{"image": ""}', "BAD_IMAGE"),
        ("[" + ",".join(["{}"] * 5000) + "]", "BAD_REQUEST"),
        ("[" * 5000, "BAD_REQUEST"),
    ],
)
def test_bad_line_costs_its_own_line(rest: httpx.Client, line: str, code: str) -> None:
    body = [image_line(jpeg()), line + "\n", image_line(jpeg())]
    first, bad, last = replies(post_lines(rest, "/v1/encode:batch", body))
    assert first["tokens"] == last["tokens"]
    assert (bad["index"], bad["code"]) == (1, code)
    assert len(bad["detail"]) < 600


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("nonsense", "BAD_REQUEST"),
        ('{"tokens": 5}', "BAD_REQUEST"),
        ('{"tokens": "???"}', "BAD_REQUEST"),
        ('{"tokens": "AAAA"}', "BAD_TOKENS"),
        ('{"tokens": "AAAA", "tokenizer": 5}', "BAD_REQUEST"),
        ('{"tokens": [1]}', "BAD_REQUEST"),
        ('{"tokens": [1], "fingerprint": "0123456789abcdef"}', "FINGERPRINT_MISMATCH"),
        ('{"tokens": "' + "A" * 70_000 + '"}', "TOO_LARGE"),
    ],
)
def test_bad_tokens_cost_their_own_line(
    rest: httpx.Client, client: Client, line: str, code: str
) -> None:
    good = json.dumps({"tokens": base64.b64encode(client.encode(jpeg()).to_bytes()).decode()})
    first, bad, last = replies(post_lines(rest, "/v1/decode:batch", [f"{good}\n{line}\n{good}"]))
    assert first["image"] == last["image"]
    assert (bad["index"], bad["code"]) == (1, code)


def test_batch_without_items_has_no_lines(rest: httpx.Client) -> None:
    assert replies(post_lines(rest, "/v1/encode:batch", ["\n", " \r\n"])) == []
    assert replies(post_lines(rest, "/v1/decode:batch", [])) == []


@pytest.mark.parametrize("path", ["/v1/encode:batch", "/v1/decode:batch"])
def test_one_item_over_the_limit_is_refused_with_it(small: Service, path: str) -> None:
    tokenizers = httpx.get(f"{small.rest}/v1/tokenizers").json()
    assert tokenizers["limits"] == {
        "max_message_bytes": 2**20,
        "max_document_bytes": 65536,
        "max_prefixes": 32,
        "max_batch_items": MAX_ITEMS,
    }
    with httpx.Client(base_url=small.rest, timeout=60) as rest:
        most = ["{}\n"] * MAX_ITEMS
        assert len(replies(post_lines(rest, path, most))) == MAX_ITEMS
        refused = post_lines(rest, path, [*most, "{}\n"])
    assert_problem(refused, 413, "TOO_LARGE")
    assert f"more than {MAX_ITEMS} items, the limit" in refused.json()["detail"]


def test_item_over_the_limit_costs_its_own_line(small: Service) -> None:
    large, good = b"x" * (2**20 + 1), jpeg()
    with httpx.Client(base_url=small.rest, timeout=60) as rest:
        files = [("image", large), ("image", good), ("image", large * 3)]
        first, second, third = replies(rest.post("/v1/encode:batch", files=files))
        assert first["code"] == third["code"] == "TOO_LARGE"
        assert "1,048,576" in first["detail"]
        body = [image_line(large), image_line(good), image_line(large * 3)]
        lines = replies(post_lines(rest, "/v1/encode:batch", body))
    assert [line.get("code") for line in lines] == ["TOO_LARGE", None, "TOO_LARGE"]
    assert lines[1]["tokens"] == second["tokens"]


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "before its last boundary"),
        (b"--x\r\n\r\nabc", "before its last boundary"),
        (b"--x\r\nContent-Type: image/png\r\n", "before its last boundary"),
        (b"--xy\r\n\r\nabc\r\n--x--", "not at the end of its line"),
        (b"a" * 10_000, "more than 4,096 bytes"),
        (b"--x\r\nA: " + b"a" * 10_000 + b"\r\n\r\nabc\r\n--x--", "more than 4,096 bytes"),
    ],
)
def test_broken_multipart_body_is_refused(rest: httpx.Client, body: bytes, why: str) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    refused = rest.post("/v1/encode:batch", content=body, headers=headers)
    assert_problem(refused, 400, "BAD_REQUEST")
    assert why in refused.json()["detail"]


def test_multipart_body_may_have_what_means_nothing(rest: httpx.Client) -> None:
    headers = {"Content-Type": 'multipart/form-data; charset=utf-8; boundary="--a b"'}
    refused = rest.post("/v1/encode:batch", content=b"", headers=headers)
    assert "needs a boundary" in refused.json()["detail"]
    headers = {"Content-Type": 'multipart/form-data; boundary="--a"; x=y'}
    body = b"preamble\r\n----a \r\n\r\n" + jpeg() + b"\r\n----a--\r\nepilogue\r\n\r\n"
    (line,) = replies(rest.post("/v1/encode:batch", content=body, headers=headers))
    assert line["k"] == 256
    assert "id" not in line


def test_parameters_and_types_are_refused_before_the_body_is_read(rest: httpx.Client) -> None:
    for params, code in (
        ({"k": "x"}, "BAD_K"),
        ({"fit": "x"}, "BAD_REQUEST"),
        ({"quality": "x"}, "BAD_REQUEST"),
        ({"format": "png"}, "BAD_REQUEST"),
    ):
        refused = post_lines(rest, "/v1/encode:batch", ["{}"], **params)
        assert_problem(refused, 422 if code == "BAD_K" else 400, code)
    assert_problem(post_lines(rest, "/v1/decode:batch", [], format="x"), 415, "UNSUPPORTED_FORMAT")
    assert_problem(
        rest.post("/v1/encode:batch", content=jpeg(), headers={"Content-Type": "image/png"}),
        415,
        "UNSUPPORTED_FORMAT",
    )
    other = rest.post("/v1/encode:batch", headers={**LINES, "Accept": "text/html"})
    assert_problem(other, 406, "NOT_ACCEPTABLE")


def test_body_that_stops_is_refused_and_one_that_is_long_is_not(small: Service) -> None:
    item = image_line(jpeg()).encode()
    host, port = small.rest.removeprefix("http://").split(":")
    head = (
        "POST /v1/encode:batch HTTP/1.1\r\nHost: localhost\r\n"
        "Content-Type: application/x-ndjson\r\n"
        f"Content-Length: {4 * len(item)}\r\nConnection: close\r\n\r\n"
    ).encode()

    def talk(pieces: Sequence[bytes]) -> bytes:
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(head)
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(0.4)
            return b"".join(iter(lambda: connection.recv(65536), b""))

    # Longer than receive_seconds, but each item is quick.
    assert talk([item] * 4).count(b'"tokens"') == 4
    refused = talk([item, item[:50]])
    assert b" 408 " in refused
    assert b"an item did not arrive within 1 s" in refused


def test_client_that_leaves_stops_the_batch(small: Service) -> None:
    item = image_line(jpeg()).encode()
    host, port = small.rest.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(
            b"POST /v1/encode:batch HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/x-ndjson\r\nContent-Length: 10000000\r\n\r\n" + item
        )
    eventually(lambda: sample(small, "channeltok_memory_reserved_bytes") == 0)


def test_replies_that_nobody_reads_end_the_batch(small: Service) -> None:
    fingerprint = httpx.get(f"{small.rest}/v1/tokenizers").json()["tokenizers"][0]["fingerprint"]
    line = json.dumps({"tokens": [1] * 256, "fingerprint": fingerprint})
    body = f"{line}\n".encode() * MAX_ITEMS
    head = (
        "POST /v1/decode:batch HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: application/x-ndjson\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    host, port = small.rest.removeprefix("http://").split(":")
    before = len(small.events("unread_replies"))
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((host, int(port)))
        # Batch after batch, until more waits than the sockets hold.
        connection.settimeout(1)
        with suppress(OSError):
            for _ in range(200):
                connection.sendall(head + body)
        eventually(lambda: len(small.events("unread_replies")) > before, 30, "its end")
    eventually(lambda: sample(small, "channeltok_memory_reserved_bytes") == 0)


def test_batches_are_bulk_work_and_counted(service: Service, rest: httpx.Client) -> None:
    before = [sample(service, "channeltok_images_total", rpc=f"{rpc}_batch") for rpc in RPCS]
    encoded = rest.post("/v1/encode:batch", files=[("image", jpeg())] * 3)
    post_lines(rest, "/v1/decode:batch", [encoded.text])
    after = [sample(service, "channeltok_images_total", rpc=f"{rpc}_batch") for rpc in RPCS]
    assert [now - then for now, then in zip(after, before, strict=True)] == [3, 3]


def test_curl_sends_many_files_in_one_call(service: Service, tmp_path: Path) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    images = crops(50)
    config = tmp_path / "files"
    names = []
    for number in range(200):
        name = tmp_path / f"{number}.jpg"
        name.write_bytes(images[number % 50])
        names.append(f'form = "image=@{name}"')
    config.write_text("\n".join(names))
    command = [curl, "--silent", "--show-error", "--config", str(config)]
    url = f"{service.rest}/v1/encode:batch?k=8"
    output = subprocess.run([*command, url], capture_output=True, check=True, timeout=300).stdout
    lines = [json.loads(line) for line in output.splitlines()]
    assert [line["id"] for line in lines] == [f"{number}.jpg" for number in range(200)]
    assert all(lines[number]["tokens"] == lines[number % 50]["tokens"] for number in range(200))

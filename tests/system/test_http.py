"""HTTP as proxies, browsers and other clients speak it, each kind of request by its bytes."""

import gzip
import socket
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest
from channeltok import Client
from PIL import Image

from tests.support.bad_input import assert_problem
from tests.support.internals import internals
from tests.support.photographs import encoded, jpeg, photograph
from tests.support.running import Service

HOST = "Host: localhost\r\n"
PATHS = (
    "/livez",
    "/readyz",
    "/metrics",
    "/v1/tokenizers",
    "/v1/generators",
    "/docs",
    "/openapi.json",
)


@pytest.fixture(autouse=True)
def unharmed(service: Service) -> Iterator[None]:
    yield
    assert not [line for line in service.log if "internal_error" in line or "Traceback" in line]


def exchange(service: Service, sent: str | bytes) -> bytes:
    """All that the service answers until it hangs up."""
    host, port = service.rest.removeprefix("http://").split(":")
    received = b""
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(sent.encode("latin-1") if isinstance(sent, str) else sent)
        with suppress(ConnectionError):
            while more := connection.recv(65536):
                received += more
    return received


@pytest.mark.parametrize("path", PATHS)
def test_head_has_the_headers_of_get_and_no_body(rest: httpx.Client, path: str) -> None:
    got, head = rest.get(path), rest.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == got.headers["content-type"]
    if path != "/metrics":  # its numbers change
        assert head.headers["content-length"] == got.headers["content-length"]
    else:
        assert int(head.headers["content-length"]) > 1000


def test_head_sends_no_body_on_the_wire(service: Service) -> None:
    ask = f"HEAD /v1/tokenizers HTTP/1.1\r\n{HOST}\r\n"
    then = f"GET /livez HTTP/1.1\r\n{HOST}Connection: close\r\n\r\n"
    head, _, rest = exchange(service, ask + then).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert rest.startswith(b"HTTP/1.1 200 OK")
    assert rest.endswith(b"alive\n")


@pytest.mark.parametrize(
    ("path", "allow"),
    [
        *((path, {"GET", "HEAD", "OPTIONS"}) for path in PATHS),
        ("/v1/encode", {"POST", "OPTIONS"}),
        ("/v1/decode", {"POST", "OPTIONS"}),
        ("/v1/encode:batch", {"POST", "OPTIONS"}),
        ("/v1/decode:batch", {"POST", "OPTIONS"}),
        ("/v1/generate", {"POST", "OPTIONS"}),
    ],
)
def test_options_and_refused_methods_say_what_is_allowed(
    rest: httpx.Client, path: str, allow: set[str]
) -> None:
    reply = rest.options(path)
    assert (reply.status_code, reply.content) == (204, b"")
    assert set(reply.headers["allow"].split(", ")) == allow
    refused = rest.delete(path)
    assert_problem(refused, 405, "METHOD_NOT_ALLOWED")
    assert set(refused.headers["allow"].split(", ")) == allow
    if "HEAD" not in allow:
        assert rest.head(path).status_code == 405


def test_options_of_the_server(service: Service) -> None:
    reply = exchange(service, f"OPTIONS * HTTP/1.1\r\n{HOST}Connection: close\r\n\r\n")
    assert reply.startswith(b"HTTP/1.1 204")
    assert b"allow: GET, HEAD, POST, OPTIONS" in reply


def test_absolute_targets_as_proxies_send_them(service: Service, client: Client) -> None:
    for host in ("localhost", service.rest.removeprefix("http://"), "LOCALHOST:80"):
        ask = f"GET http://{host}/livez HTTP/1.1\r\nHost: elsewhere\r\nConnection: close\r\n\r\n"
        reply = exchange(service, ask)
        assert reply.startswith(b"HTTP/1.1 200 OK")
        assert reply.endswith(b"alive\n")
    head = (
        f"POST {service.rest}/v1/encode?k=4 HTTP/1.1\r\n{HOST}Connection: close\r\n"
        f"Content-Length: {len(jpeg())}\r\nAccept: application/vnd.channeltok.tokens\r\n\r\n"
    )
    reply = exchange(service, head.encode() + jpeg())
    assert reply.partition(b"\r\n\r\n")[2] == client.encode(jpeg(), 4).to_bytes()


@pytest.mark.parametrize(
    "head",
    [
        f"POST /v1/encode HTTP/1.1\r\n{HOST}Content-Length: 5\r\n"
        "Transfer-Encoding: chunked\r\n\r\n",
        f"POST /v1/encode HTTP/1.1\r\n{HOST}Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
        f"POST /v1/encode HTTP/1.0\r\n{HOST}Connection: keep-alive\r\n"
        "Transfer-Encoding: chunked\r\n\r\n",
        "POST /v1/encode HTTP/1.1\nHost: localhost\nTransfer-Encoding: chunked\n\n",
        f"POST /v1/encode HTTP/1.1\r\n{HOST}X: a\nTransfer-Encoding: chunked\r\n\r\n",
        f"POST /v1/encode HTTP/1.1\r\n{HOST}X: a\r\n Transfer-Encoding: chunked\r\n\r\n",
        f"POST /v1/encode HTTP/1.1\r\n{HOST}Transfer-Encoding: gzip, chunked\r\n\r\n",
        f"POST /v1/encode HTTP/1.1\r\n{HOST}Host: b\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
    ids=["two ways", "lengths", "http 1.0", "bare LF", "LF in value", "fold", "gzip", "two hosts"],
)
def test_ambiguous_requests_end_the_connection(service: Service, head: str) -> None:
    """What follows could be a request that a proxy in front took for a body."""
    hidden = f"0\r\n\r\nGET /livez HTTP/1.1\r\n{HOST}\r\n"
    reply = exchange(service, head + hidden)
    assert reply.startswith(b"HTTP/1.1 400")
    assert b"connection: close" in reply.lower()
    assert reply.count(b"\r\n\r\n") == 1  # one answer, which has no blank line of its own
    assert b'"code":"BAD_REQUEST"' in reply
    assert b"alive" not in reply
    assert not internals(reply.decode())


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "deflate", "br", "zstd", "identity, gzip"])
def test_encoded_bodies_are_refused_by_name(rest: httpx.Client, coding: str) -> None:
    packed = zlib.compress(jpeg()) if coding == "deflate" else gzip.compress(jpeg())
    for path, content_type in (("/v1/encode", "image/jpeg"), ("/v1/decode", "application/json")):
        reply = rest.post(
            path, content=packed, headers={"Content-Type": content_type, "Content-Encoding": coding}
        )
        assert_problem(reply, 415, "UNSUPPORTED_ENCODING")
        assert reply.headers["accept-encoding"] == "identity"
        assert coding.rpartition(" ")[2] in reply.json()["detail"]


def test_identity_is_no_encoding(rest: httpx.Client) -> None:
    for coding in ("identity", "Identity", ""):
        headers = {"Content-Encoding": coding}
        assert rest.post("/v1/encode?k=4", content=jpeg(), headers=headers).status_code == 200


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "image/jpeg",
        "image/jpg",
        "image/pjpeg",
        "image/x-png",
        "image/*",
        "IMAGE/JPEG; charset=binary",
        "application/octet-stream",
        "application/x-www-form-urlencoded",
    ],
)
def test_the_bytes_say_which_image_it_is(rest: httpx.Client, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    png = encoded(Image.fromarray(photograph("chelsea")), "PNG")
    for image in (jpeg(), png):
        assert rest.post("/v1/encode?k=4", content=image, headers=headers).status_code == 200


@pytest.mark.parametrize(
    "content_type",
    ["text/html", "text/plain", "multipart/form-data", "video/mp4"],
)
def test_what_is_called_no_image_is_refused(rest: httpx.Client, content_type: str) -> None:
    reply = rest.post("/v1/encode?k=4", content=jpeg(), headers={"Content-Type": content_type})
    assert_problem(reply, 415, "UNSUPPORTED_FORMAT")
    assert "image/jpeg" in reply.json()["detail"]


@pytest.mark.parametrize(
    ("accepts", "expected"),
    [
        (["application/json;q=0.1", "application/octet-stream"], "application/octet-stream"),
        (["text/html", "application/json"], "application/json"),
        (["application/json;q=0", "*/*;q=0.1"], "application/octet-stream"),
        (["text/html", "image/png"], None),
    ],
)
def test_several_accept_headers_count_as_one(
    rest: httpx.Client, accepts: list[str], expected: str | None
) -> None:
    headers: Any = [("Accept", accept) for accept in accepts]
    request = rest.build_request("POST", "/v1/encode?k=4", content=jpeg())
    del request.headers["accept"]
    request.headers = httpx.Headers([*request.headers.multi_items(), *headers])
    reply = rest.send(request)
    if expected is None:
        assert_problem(reply, 406, "NOT_ACCEPTABLE")
    else:
        assert (reply.status_code, reply.headers["content-type"]) == (200, expected)


@pytest.mark.parametrize("path", ["/v1/tokenizers/", "//v1//tokenizers", "/livez/", "/docs/"])
def test_nothing_is_redirected(rest: httpx.Client, path: str) -> None:
    """Behind a proxy that ends TLS, a redirect would lead from https to http."""
    reply = rest.request("GET", httpx.URL(f"{rest.base_url}".rstrip("/") + path))
    assert_problem(reply, 404, "NO_SUCH_PATH")
    right = "/" + "/".join(filter(None, path.split("/")))
    assert reply.json()["detail"].endswith(f"the path is {right}")
    assert rest.get(right).status_code == 200


@pytest.mark.parametrize(
    "k", ["1_0", "%2B1", "+1", "%201", "1%20", "%EF%BC%91", "%D9%A1", "1.0", "1e1", "0x10", "true"]
)
def test_whole_numbers_are_digits_alone(rest: httpx.Client, k: str) -> None:
    assert_problem(rest.post(f"/v1/encode?k={k}", content=jpeg()), 422, "BAD_K")
    assert_problem(
        rest.post(f"/v1/encode?quality=max_bytes={k}", content=jpeg()), 400, "BAD_REQUEST"
    )


@pytest.mark.parametrize(
    "target",
    [
        "/v1/encode?k=1&k=2",
        "/v1/encode?fit=crop&fit=pad",
        "/v1/encode?tokeniser=demo",
        "/v1/encode?K=4",
        "/v1/encode?quality=ssim=0.5&max_bytes=64",
        "/v1/decode?k=4",
        "/v1/tokenizers?name=demo",
        "/v1/generate?seed=1",
    ],
)
def test_unknown_and_repeated_parameters_are_refused(rest: httpx.Client, target: str) -> None:
    method = "GET" if "tokenizers" in target else "POST"
    reply = rest.request(method, target, content=jpeg() if method == "POST" else None)
    assert_problem(reply, 400, "BAD_REQUEST")


def test_probes_may_send_parameters(rest: httpx.Client) -> None:
    for path in ("/livez", "/readyz", "/metrics"):
        assert rest.get(f"{path}?verbose").status_code == 200


@pytest.mark.parametrize("k", ["true", "8.0", '"8"', "null", "[8]", "8e0"])
def test_whole_numbers_in_json_are_json_numbers(rest: httpx.Client, client: Client, k: str) -> None:
    tokens = client.encode(jpeg(), 8)
    ids = ",".join(map(str, tokens.ids))
    json = {"Content-Type": "application/json"}
    body = f'{{"fingerprint": "{tokens.fingerprint}", "tokens": [{ids}], "k": {k}}}'
    assert_problem(rest.post("/v1/decode", content=body, headers=json), 422, "BAD_TOKENS")
    body = f'{{"fingerprint": "{tokens.fingerprint}", "tokens": [{k}]}}'
    assert_problem(rest.post("/v1/decode", content=body, headers=json), 422, "BAD_TOKENS")
    if k != "null":
        for field in ("k", "seed", "top_k", "previews"):
            body = f'{{"{field}": {f"[{k}]" if field == "previews" else k}}}'
            assert_problem(
                rest.post("/v1/generate", content=body, headers=json), 400, "BAD_REQUEST"
            )


@pytest.mark.parametrize("number", ["true", '"1"', "[1]"])
def test_numbers_in_json_are_json_numbers(rest: httpx.Client, number: str) -> None:
    reply = rest.post(
        "/v1/generate",
        content=f'{{"temperature": {number}}}',
        headers={"Content-Type": "application/json"},
    )
    assert_problem(reply, 400, "BAD_REQUEST")


@pytest.mark.parametrize(
    "upgrade",
    [
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        "HTTP2-Settings: AAMAAABkAAQAAP__\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n",
    ],
    ids=["h2c", "websocket"],
)
def test_upgrades_are_ignored(service: Service, upgrade: str) -> None:
    before = len(service.log)
    then = f"GET /livez HTTP/1.1\r\n{HOST}Connection: close\r\n\r\n"
    reply = exchange(service, f"GET /livez HTTP/1.1\r\n{HOST}{upgrade}\r\n{then}")
    assert reply.count(b"HTTP/1.1 200 OK") == 2
    assert service.log[before:] == []


def test_http_2_is_told_that_this_is_http_1(service: Service) -> None:
    before = len(service.log)
    reply = exchange(service, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
    assert reply.startswith(b"HTTP/1.1 400")
    assert reply.count(b"HTTP/1.1 4") == 1
    assert b"gRPC has a port of its own" in reply
    assert service.log[before:] == []

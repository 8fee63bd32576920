"""Each invalid input gets the error of the table, in both protocols, and no crash is logged."""

from collections.abc import Iterator

import grpc
import httpx
import orjson
import pytest
from channeltok import ChannelTokError, Client, Tokens
from channeltok.v1 import tokenizer_pb2 as pb
from channeltok.v1 import tokenizer_pb2_grpc
from grpc import StatusCode

from tests.support.bad_input import BAD_IMAGES, BAD_K, assert_problem, bomb
from tests.support.photographs import jpeg
from tests.support.running import Service

JPEG = {"Content-Type": "image/jpeg"}
OCTETS = {"Content-Type": "application/octet-stream"}


@pytest.fixture(autouse=True)
def unharmed(service: Service, client: Client) -> Iterator[None]:
    """After each test the same processes still work and have logged no exception."""
    engines = service.engines()
    yield
    assert service.process.poll() is None
    assert service.engines() == engines
    assert client.encode(jpeg(), 4).k == 4
    assert not [line for line in service.log if "internal_error" in line or "Traceback" in line]


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_bad_images_are_refused(rest: httpx.Client, client: Client, name: str) -> None:
    image, code, status = BAD_IMAGES[name]
    assert_problem(rest.post("/v1/encode", content=image, headers=JPEG), status, code)
    with pytest.raises(ChannelTokError) as caught:
        client.encode(image)
    assert caught.value.code == code


def test_bomb_is_69_bytes() -> None:
    assert len(bomb()) == 69


@pytest.mark.parametrize("k", BAD_K)
def test_bad_k_over_rest(rest: httpx.Client, k: str) -> None:
    assert_problem(
        rest.post("/v1/encode", params={"k": k}, content=jpeg(), headers=JPEG), 422, "BAD_K"
    )


@pytest.mark.parametrize("k", [0, -1, 257, 2**32 - 1])
def test_bad_k_over_grpc(client: Client, k: int) -> None:
    with pytest.raises(ChannelTokError) as caught:
        client.encode(jpeg(), k)
    assert caught.value.code == "BAD_K"


def test_unknown_tokenizer(rest: httpx.Client, client: Client) -> None:
    assert_problem(
        rest.post("/v1/encode?tokenizer=nobody", content=jpeg(), headers=JPEG),
        404,
        "UNKNOWN_TOKENIZER",
    )
    octets = {**OCTETS}
    assert_problem(
        rest.post(
            "/v1/decode?tokenizer=nobody", content=client.encode(jpeg()).to_bytes(), headers=octets
        ),
        404,
        "UNKNOWN_TOKENIZER",
    )
    for call in (
        lambda: client.encode(jpeg(), tokenizer="nobody"),
        lambda: client.decode(client.encode(jpeg()), tokenizer="nobody"),
    ):
        with pytest.raises(ChannelTokError) as caught:
            call()
        assert caught.value.code == "UNKNOWN_TOKENIZER"


def test_foreign_fingerprint(rest: httpx.Client, client: Client) -> None:
    foreign = Tokens(client.encode(jpeg()).ids, "0123456789abcdef")
    assert_problem(
        rest.post("/v1/decode", content=foreign.to_bytes(), headers=OCTETS),
        409,
        "FINGERPRINT_MISMATCH",
    )
    document = {"fingerprint": foreign.fingerprint, "tokens": foreign.ids.tolist()}
    assert_problem(rest.post("/v1/decode", json=document), 409, "FINGERPRINT_MISMATCH")
    with pytest.raises(ChannelTokError) as caught:
        client.decode(foreign)
    assert caught.value.code == "FINGERPRINT_MISMATCH"


def test_wrong_ids_in_json(rest: httpx.Client, client: Client) -> None:
    tokens = client.encode(jpeg(), 8)
    good = {
        "tokenizer": "",
        "fingerprint": tokens.fingerprint,
        "k": 8,
        "tokens": tokens.ids.tolist(),
    }
    assert rest.post("/v1/decode", json=good).status_code == 200
    for ids in (
        [*good["tokens"][:7], 65_536],
        [*good["tokens"][:7], -1],
        [*good["tokens"][:7], 0.5],
        [*good["tokens"][:7], "1"],
    ):
        assert_problem(rest.post("/v1/decode", json={**good, "tokens": ids}), 422, "BAD_TOKENS")
    assert_problem(
        rest.post("/v1/decode", json={**good, "tokens": good["tokens"][:7]}), 422, "BAD_TOKENS"
    )  # k says 8
    assert_problem(rest.post("/v1/decode", json={**good, "k": 0, "tokens": []}), 422, "BAD_TOKENS")
    assert_problem(
        rest.post("/v1/decode", json={**good, "k": 257, "tokens": [0] * 257}), 422, "BAD_TOKENS"
    )
    assert_problem(rest.post("/v1/decode", json={**good, "fingerprint": "xyz"}), 422, "BAD_TOKENS")


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'{"tokens": 5}', b'{"tokens": [1]}', b"\xff\xfe", b'{"a":' * 2000],
    ids=lambda body: repr(body[:12]),
)
def test_malformed_json(rest: httpx.Client, body: bytes) -> None:
    assert_problem(
        rest.post("/v1/decode", content=body, headers={"Content-Type": "application/json"}),
        400,
        "BAD_REQUEST",
    )


def test_wrong_token_bytes(rest: httpx.Client, client: Client) -> None:
    good = client.encode(jpeg(), 8).to_bytes()
    too_many = Tokens.from_bytes(good).fingerprint
    for wrong in (
        b"",
        b"CTOK",
        good[:-1],
        good + b"\0",
        b"X" + good[1:],
        good[:4] + b"\x09" + good[5:],
        Tokens([1] * 300, too_many).to_bytes(),
    ):
        assert_problem(rest.post("/v1/decode", content=wrong, headers=OCTETS), 422, "BAD_TOKENS")
        with pytest.raises(ChannelTokError) as caught:
            client.decode(wrong)
        assert caught.value.code == "BAD_TOKENS"


def test_media_types(rest: httpx.Client, client: Client) -> None:
    assert_problem(
        rest.post("/v1/encode", content=jpeg(), headers={"Content-Type": "text/html"}),
        415,
        "UNSUPPORTED_FORMAT",
    )
    assert_problem(
        rest.post("/v1/decode", content=b"k=1", headers={"Content-Type": "text/plain"}),
        415,
        "UNSUPPORTED_FORMAT",
    )
    octets = client.encode(jpeg(), 8).to_bytes()
    assert_problem(
        rest.post("/v1/decode", content=octets, headers={**OCTETS, "Accept": "image/gif"}),
        406,
        "NOT_ACCEPTABLE",
    )
    liked = rest.post(
        "/v1/decode",
        content=octets,
        headers={**OCTETS, "Accept": "image/png;q=0.1, image/webp;q=0.9, */*;q=0.05"},
    )
    assert liked.headers["content-type"] == "image/webp"
    # An image is what its bytes say, whatever the caller calls it.
    assert (
        rest.post(
            "/v1/encode?k=4", content=jpeg(), headers={"Content-Type": "image/png"}
        ).status_code
        == 200
    )


def test_too_many_bytes(rest: httpx.Client, client: Client, service: Service) -> None:
    huge = b"\xff\xd8" + bytes(17 * 2**20)
    assert_problem(rest.post("/v1/encode", content=huge, headers=JPEG), 413, "TOO_LARGE")
    assert_problem(
        rest.post("/v1/encode", content=iter([huge[: 2**20]] * 17), headers=JPEG), 413, "TOO_LARGE"
    )  # no content-length
    with pytest.raises(ChannelTokError) as caught:
        client.encode(huge)
    assert caught.value.code == "TOO_LARGE"


def test_unknown_paths_and_methods(rest: httpx.Client) -> None:
    assert_problem(rest.get("/v1/nothing"), 404, "NO_SUCH_PATH")
    assert_problem(rest.get("/v1/encode"), 405, "METHOD_NOT_ALLOWED")


def test_grpc_status_and_details(service: Service) -> None:
    with grpc.insecure_channel(service.grpc) as channel:
        stub = tokenizer_pb2_grpc.TokenizerStub(channel)
        expected = {
            StatusCode.INVALID_ARGUMENT: pb.EncodeRequest(image=bomb()),
            StatusCode.NOT_FOUND: pb.EncodeRequest(image=jpeg(), tokenizer="nobody"),
        }
        for code, request in expected.items():
            with pytest.raises(grpc.RpcError) as caught:
                stub.Encode(request, timeout=30)
            assert caught.value.code() == code
        with pytest.raises(grpc.RpcError) as caught:
            stub.Decode(
                pb.DecodeRequest(tokens=Tokens([1], "0123456789abcdef").to_bytes()), timeout=30
            )
        assert caught.value.code() == StatusCode.FAILED_PRECONDITION
        with pytest.raises(grpc.RpcError) as caught:
            stub.Encode(pb.EncodeRequest(image=jpeg()), timeout=0.0005)
        assert caught.value.code() == StatusCode.DEADLINE_EXCEEDED


def test_one_bad_image_leaves_the_stream_alive(client: Client) -> None:
    outcomes = list(client.encode_stream([jpeg(), b"rubbish", bomb(), jpeg("coffee")], k=8))
    assert outcomes[0] == client.encode(jpeg(), 8)
    assert [getattr(outcome, "code", None) for outcome in outcomes[1:3]] == [
        "BAD_IMAGE",
        "TOO_MANY_PIXELS",
    ]
    assert outcomes[3] == client.encode(jpeg("coffee"), 8)


def test_deeply_nested_json_is_refused(rest: httpx.Client) -> None:
    body = b"[" * 30_000 + b"]" * 30_000
    reply = rest.post("/v1/decode", content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code == 400
    assert orjson.loads(reply.content)["code"] == "BAD_REQUEST"

"""Images as base64 in JSON, for callers who only have JSON."""

import base64

import httpx
import pytest
from channeltok import Client

from tests.support.bad_input import assert_problem
from tests.support.photographs import jpeg
from tests.support.running import Service, running

IMAGE = base64.b64encode(jpeg()).decode()
IN_JSON = {"Accept": "application/json"}


def test_encode_in_json_is_encode(rest: httpx.Client) -> None:
    options = {"k": 12, "fit": "pad", "tokenizer": "demo"}
    plain = rest.post("/v1/encode", params=options, content=jpeg())
    for query, body in ((options, {}), ({}, options), ({"k": 12}, {"fit": "pad"})):
        reply = rest.post("/v1/encode", params=query, json={"image": IMAGE, **body})
        assert reply.status_code == 200
        assert reply.json() == plain.json()
        assert reply.headers["channeltok-view"] == plain.headers["channeltok-view"]
    by_quality = rest.post("/v1/encode", json={"image": IMAGE, "quality": "max_bytes=64"})
    assert len(by_quality.json()["tokens"]) == by_quality.json()["k"] == 32


def test_decode_in_json_is_decode(rest: httpx.Client, client: Client) -> None:
    tokens = rest.post("/v1/encode?k=12", json={"image": IMAGE}).json()
    for query, format, k in (("", "png", 12), ("?k=4", "png", 4), ("?format=webp", "webp", 12)):
        reply = rest.post(f"/v1/decode{query}", json=tokens, headers=IN_JSON)
        assert reply.headers["content-type"] == "application/json"
        assert reply.headers["channeltok-engine"]
        document = reply.json()
        image = rest.post(
            f"/v1/decode?k={k}", json=tokens, headers={"Accept": f"image/{format}"}
        ).content
        assert base64.b64decode(document.pop("image")) == image
        assert document == {"k": k, "media_type": f"image/{format}"}
    assert rest.post("/v1/decode", json=tokens).headers["content-type"] == "image/png"


@pytest.mark.parametrize(
    ("query", "body", "status", "code"),
    [
        ("", {"image": IMAGE[:-3]}, 400, "BAD_REQUEST"),
        ("", {"image": IMAGE + "\n"}, 400, "BAD_REQUEST"),
        ("", {"image": "data:image/jpeg;base64," + IMAGE}, 400, "BAD_REQUEST"),
        ("", {"image": ""}, 422, "BAD_IMAGE"),
        ("", {"image": IMAGE[:400]}, 422, "BAD_IMAGE"),
        ("", {"image": IMAGE, "k": 0}, 422, "BAD_K"),
        ("", {"image": IMAGE, "fit": "stretch"}, 400, "BAD_REQUEST"),
        ("", {"image": IMAGE, "tokenizer": "other"}, 404, "UNKNOWN_TOKENIZER"),
        ("?k=4", {"image": IMAGE, "k": 4}, 400, "BAD_REQUEST"),
    ],
)
def test_encode_in_json_is_refused_as_encode_is(
    rest: httpx.Client, query: str, body: dict[str, object], status: int, code: str
) -> None:
    assert_problem(rest.post(f"/v1/encode{query}", json=body), status, code)


def test_several_k_are_not_offered_in_json(rest: httpx.Client) -> None:
    tokens = rest.post("/v1/encode?k=12", json={"image": IMAGE}).json()
    reply = rest.post("/v1/decode?k=4,8", json=tokens, headers=IN_JSON)
    assert_problem(reply, 406, "NOT_ACCEPTABLE")


def test_limits_hold_for_the_decoded_bytes() -> None:
    """A body of 4/3 of the limit is taken, an image of a byte more is not."""
    limit = len(jpeg())
    with running(max_message_bytes=str(limit)) as small:
        taken = httpx.post(f"{small.rest}/v1/encode", json={"image": IMAGE})
        assert taken.status_code == 200, taken.text
        larger = base64.b64encode(jpeg() + b"\0").decode()
        reply = httpx.post(f"{small.rest}/v1/encode", json={"image": larger})
        assert_problem(reply, 413, "TOO_LARGE")
        assert f"{limit:,}" in reply.json()["detail"]
        assert_unharmed(small)


def assert_unharmed(service: Service) -> None:
    assert not [line for line in service.log if "internal_error" in line]

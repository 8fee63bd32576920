"""Encode by quality gives the same tokens over every protocol.

The choice agrees with decoding each budget separately.
"""

import asyncio
import io

import httpx
import numpy as np
import pytest
from channeltok import AsyncClient, Client, InvalidInput, Quality, Tokens
from channeltok.v1 import tokenizer_pb2 as pb
from PIL import Image

import imaging
from imaging.similarity import psnr, ssim
from tests.support.metrics import sample
from tests.support.photographs import crops, jpeg
from tests.support.running import Service

ASKED = Quality(ssim=0.6, max_bytes=384)


def test_quality_curve_equals_decoding_each_budget(service: Service) -> None:
    with Client(service.grpc) as client:
        tokens = client.encode(jpeg(), quality=ASKED)
        assert [one.k for one in tokens.curve] == [8, 16, 24, 32, 48, 64, 96, 128, 192]
        original = imaging.prepare(jpeg(), 128, 10**9)[None]
        everything = client.encode(jpeg())
        for one in tokens.curve:
            decoded = np.asarray(Image.open(io.BytesIO(client.decode(everything.prefix(one.k)))))[
                None
            ]
            assert one.ssim == pytest.approx(ssim(original, decoded)[0])
            assert one.psnr == pytest.approx(psnr(original, decoded)[0])
        assert tokens == everything.prefix(ASKED.choose(tokens.curve).k)


def test_quality_gives_the_same_tokens_over_every_protocol(service: Service) -> None:
    some = crops(6)

    async def over_asyncio() -> list[object]:
        async with AsyncClient(service.grpc) as client:
            singly = [await client.encode(image, quality=ASKED) for image in some]
            return [*singly, *[one async for one in client.encode_stream(some, quality=ASKED)]]

    with Client(service.grpc) as client, httpx.Client(base_url=service.rest) as rest:
        expected = [client.encode(image, quality=ASKED) for image in some]
        assert len({tokens.k for tokens in expected}) > 1
        assert list(client.encode_stream(some, quality=ASKED)) == expected
        assert asyncio.run(over_asyncio()) == [*expected, *expected]
        for image, tokens in zip(some, expected, strict=True):
            document = (
                rest.post("/v1/encode", params={"quality": str(ASKED)}, content=image)
                .raise_for_status()
                .json()
            )
            assert (document["tokens"], document["k"]) == (tokens.ids.tolist(), tokens.k)
            assert [one["k"] for one in document["curve"]] == [one.k for one in tokens.curve]
            assert document["curve"][0]["ssim"] == pytest.approx(tokens.curve[0].ssim)
            headers = {"Content-Type": "application/json"}
            assert rest.post("/v1/decode", json=document, headers=headers).status_code == 200
            octets = rest.post(
                "/v1/encode",
                params={"quality": str(ASKED)},
                content=image,
                headers={"Accept": "application/octet-stream"},
            )
            assert Tokens.from_bytes(octets.content) == tokens


def test_quality_has_a_measure_stage_and_metrics(service: Service) -> None:
    before = sample(service, "channeltok_stage_seconds_count", rpc="encode", stage="measure")
    reply = httpx.post(f"{service.rest}/v1/encode", params={"quality": "psnr=20"}, content=jpeg())
    stages = [part.partition(";")[0] for part in reply.headers["server-timing"].split(", ")]
    assert stages == ["admission", "unpack", "engine_queue", "engine", "measure"]
    assert (
        sample(service, "channeltok_stage_seconds_count", rpc="encode", stage="measure")
        == before + 1
    )


@pytest.mark.parametrize(
    "query",
    ["quality=fine", "quality=ssim=2", "quality=max_bytes=1", "k=8&quality=ssim=0.5", "quality="],
)
def test_invalid_quality_is_refused_over_rest(service: Service, query: str) -> None:
    reply = httpx.post(f"{service.rest}/v1/encode?{query}", content=jpeg())
    assert (reply.status_code, reply.json()["code"]) == (400, "BAD_REQUEST")
    assert (
        "quality" in reply.json()["detail"]
        or "ssim" in reply.json()["detail"]
        or "max_bytes" in reply.json()["detail"]
    )


@pytest.mark.parametrize(
    "quality",
    [
        pb.Quality(),
        pb.Quality(ssim=0.5, psnr=20),
        pb.Quality(ssim=float("nan")),
        pb.Quality(max_bytes=0),
    ],
)
def test_invalid_quality_is_refused_over_grpc(
    service: Service, quality: pb.Quality, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "channeltok._messages.encode_request",
        lambda image, *_: pb.EncodeRequest(image=image, quality=quality),
    )
    with Client(service.grpc) as client, pytest.raises(InvalidInput) as caught:
        client.encode(jpeg())
    assert caught.value.code == "BAD_REQUEST"

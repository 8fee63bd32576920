"""Tokenization over scripted inferences, in place of Triton."""

import asyncio
from contextlib import aclosing
from functools import cache
from unittest.mock import AsyncMock

import numpy as np
import pytest
from channeltok import ImageView, Preview, Quality, Tokens
from numpy.typing import NDArray

import imaging
from service.core.admission import Priority
from service.core.image_codec import HEAVY_QUEUE_SIZE, ImageCodec
from service.core.memory import MemoryBudget, Use
from service.core.progressive import DecodeFinished
from service.core.rate_limit import RateLimit
from service.core.registry import Registry, ServedModels
from service.core.tokenization import Tokenization
from service.errors import (
    BadK,
    BadRequest,
    BadTokens,
    DeadlineExceeded,
    EngineUnavailable,
    FingerprintMismatch,
    Overloaded,
    RateLimited,
    Stopping,
    TooLarge,
    TooManyPixels,
)
from service.settings import Settings
from tests.support.scripted_inference import ScriptedInference
from tests.support.served_models import A, B, models

GREY: NDArray[np.uint8] = np.full((128, 128, 3), 128, np.uint8)
IMAGE = imaging.encode_image(GREY, "JPEG")
IDS = np.arange(256, dtype=np.int32)
TOKENS = Tokens(IDS.astype(np.uint16), A)


class GatedCodec(ImageCodec):
    """Decodes in this process. Heavy images wait at a gate before."""

    def __init__(self, workers: int, max_pixels: int) -> None:
        super().__init__(workers, max_pixels)
        self.started, self.gate = asyncio.Event(), asyncio.Event()

    async def pixels(
        self, image: imaging.ImageFile, size: int, fit: imaging.Fit = "crop"
    ) -> NDArray[np.uint8]:
        if image.heavy:
            self.started.set()
            await self.gate.wait()
        return image.pixels(size, fit)


@cache
def heavy() -> bytes:
    """A WebP of noise, a quarter of a second of a core."""
    noise = np.random.default_rng(0).integers(0, 2, (2500, 2500, 1), dtype=np.uint8) * 255
    return imaging.encode_image(np.repeat(noise, 3, 2), "WEBP")


class Setup:
    """A tokenization that serves tokenizer "cat" with decoders for k = 64 and 256."""

    def __init__(self, rate_limit: RateLimit | None = None, **settings: int | float) -> None:
        self.triton = ScriptedInference()
        self.triton.outputs = {"cat_encode": IDS, "cat_decode_k64": GREY, "cat_decode_k256": GREY}
        self.refresh = AsyncMock()
        self.registry = Registry(self.refresh, ServedModels(models("cat", A, (64, 256))))
        checked = Settings.model_validate(settings)
        self.images = GatedCodec(1, checked.max_pixels)
        self.memory = MemoryBudget(2**30)
        self.tokenization = Tokenization(
            self.triton,  # type: ignore[arg-type]
            self.registry,
            self.images,
            rate_limit or RateLimit(None, 1),
            self.memory,
            checked,
        )


@pytest.mark.parametrize("k", [None, 1, 256])
async def test_encode_returns_the_first_k_ids(k: int | None) -> None:
    setup = Setup()
    encoded = await setup.tokenization.encode(IMAGE, k, "cat")
    assert encoded.tokens == Tokens(IDS[: k or 256].astype(np.uint16), A)
    assert encoded.tokenizer.name == "cat"
    assert list(encoded.stages) == ["admission", "unpack", "engine_queue", "engine"]
    ((model, pixels),) = setup.triton.requests
    assert (model, pixels.shape, pixels.dtype) == ("cat_encode", (1, 128, 128, 3), np.uint8)


async def test_encode_says_what_the_tokenizer_saw() -> None:
    setup = Setup()
    wide = imaging.encode_image(np.zeros((40, 121, 3), np.uint8), "PNG")
    cropped = await setup.tokenization.encode(wide, None, None)
    assert cropped.tokens.view == ImageView(121, 40, 40.5, 0, 80.5, 40)
    padded = await setup.tokenization.encode(wide, None, None, fit="pad")
    assert padded.tokens.view == ImageView(121, 40, 0, 0, 121, 40)
    (_, square), (_, whole) = setup.triton.requests
    assert np.array_equal(square[0], imaging.prepare(wide, 128))
    assert np.array_equal(whole[0], imaging.prepare(wide, 128, fit="pad"))


@pytest.mark.parametrize("k", [0, 257])
async def test_encode_refuses_a_k_out_of_range(k: int) -> None:
    with pytest.raises(BadK, match="tokenizer 'cat' takes 1 to 256"):
        await Setup().tokenization.encode(IMAGE, k, None)


async def test_encode_refuses_k_together_with_a_quality() -> None:
    with pytest.raises(BadRequest, match="k and quality"):
        await Setup().tokenization.encode(IMAGE, 8, None, quality=Quality(ssim=0.9))


async def test_encode_refuses_an_image_file_that_is_too_large() -> None:
    setup = Setup(max_message_bytes=1024)
    with pytest.raises(TooLarge, match="1,025 bytes; at most 1,024"):
        await setup.tokenization.encode(bytes(1025), None, None)
    assert setup.triton.requests == []


async def test_encode_refuses_an_image_that_can_never_fit_into_memory() -> None:
    setup = Setup()
    setup.memory.limit = 20 * 2**20
    with pytest.raises(TooManyPixels, match="bytes to decode; the service has 10,485,760"):
        await setup.tokenization.encode(heavy(), None, None)
    assert setup.memory.reserved == 0


@pytest.mark.parametrize("image", [IMAGE, heavy()], ids=["quick", "heavy"])
async def test_encode_decodes_when_there_is_memory_for_the_image(image: bytes) -> None:
    setup = Setup()
    setup.images.gate.set()
    most = setup.memory.largest
    with await setup.memory.reserve(most, Use.IMAGES) as held:
        with await setup.memory.reserve(most, Use.IMAGES):
            encoding = asyncio.create_task(setup.tokenization.encode(image, None, None))
            for _ in range(10):
                await asyncio.sleep(0)
            assert setup.memory.waiting == 1
            assert setup.triton.requests == []
        await encoding
        assert setup.memory.reserved == held.size


async def test_encode_chooses_the_fewest_tokens_that_reach_a_quality() -> None:
    setup = Setup()
    setup.triton.outputs["cat_decode_k64"] = 255 - GREY // 2  # too bright up to k = 64
    encoded = await setup.tokenization.encode(IMAGE, None, None, quality=Quality(ssim=0.999))
    assert [(name, len(rows)) for name, rows in setup.triton.requests] == [
        ("cat_encode", 1),
        ("cat_decode_k64", 6),
        ("cat_decode_k256", 4),
    ]
    assert [point.k for point in encoded.curve] == [8, 16, 24, 32, 48, 64, 96, 128, 192, 256]
    assert encoded.tokens.k == 96
    assert "measure" in encoded.stages


@pytest.mark.parametrize("bad", [-1, 65536])
async def test_encode_suspects_an_engine_that_returns_invalid_ids(bad: int) -> None:
    setup = Setup()
    setup.triton.outputs["cat_encode"] = np.where(IDS == 7, bad, IDS).astype(np.int32)
    with pytest.raises(EngineUnavailable, match="invalid tokens"):
        await setup.tokenization.encode(IMAGE, None, None)
    assert set(setup.triton.health.suspected_at) == {"cat_encode"}


async def test_decode_removes_the_bands_of_the_aspect_or_of_the_view() -> None:
    setup = Setup()
    marked = GREY.copy()
    marked[42:85] = 200  # the rows of an image of 3:1
    setup.triton.outputs["cat_decode_k64"] = marked
    plain = Tokens([1], A)
    wide = Tokens([1], A, view=ImageView(300, 100, 0, 0, 300, 100))

    async def decoded(tokens: Tokens, aspect: tuple[int, int] | None) -> NDArray[np.uint8]:
        result = await setup.tokenization.decode(tokens, "PNG", None, aspect=aspect)
        return np.asarray(imaging.decode(result.image))

    for tokens, aspect in ((plain, (3, 1)), (wide, None), (plain, (300, 100))):
        assert np.array_equal(await decoded(tokens, aspect), marked[42:85])
    for tokens, aspect in ((plain, None), (wide, (1, 1))):
        assert np.array_equal(await decoded(tokens, aspect), marked)
    assert (await decoded(wide, (1, 2))).shape == (128, 64, 3)


@pytest.mark.parametrize(("k", "budget"), [(1, 64), (64, 64), (65, 256)])
async def test_decode_pads_the_tokens_for_the_smallest_decoder_that_fits(
    k: int, budget: int
) -> None:
    setup = Setup()
    tokens = Tokens(IDS[:k].astype(np.uint16), A)
    decoded = await setup.tokenization.decode(tokens.to_bytes(), "PNG", None)
    assert np.array_equal(imaging.prepare(decoded.image, 128, 10**6), GREY)
    assert decoded.k == k
    assert list(decoded.stages) == ["admission", "unpack", "engine_queue", "engine", "render"]
    ((model, rows),) = setup.triton.requests
    assert (model, rows.shape, rows.dtype) == (f"cat_decode_k{budget}", (1, budget), np.int32)
    assert rows[0].tolist() == [*range(k), *[-1] * (budget - k)]


async def test_decode_takes_the_first_k_tokens() -> None:
    setup = Setup()
    decoded = await setup.tokenization.decode(TOKENS, "PNG", None, k=3)
    assert decoded.k == 3
    ((model, rows),) = setup.triton.requests
    assert (model, rows[0, :4].tolist()) == ("cat_decode_k64", [0, 1, 2, -1])
    with pytest.raises(BadK, match="k is 257; there are 256 tokens"):
        await setup.tokenization.decode(TOKENS, "PNG", None, k=257)


async def test_decode_progressive_runs_one_batch_for_each_decoder() -> None:
    setup = Setup()
    events = setup.tokenization.decode_progressive(TOKENS, [200, 3, 64, 65], "PNG", None)
    async with aclosing(events):
        *previews, finished = [event async for event in events]
    assert [preview.k for preview in previews if isinstance(preview, Preview)] == [200, 3, 64, 65]
    assert isinstance(finished, DecodeFinished)
    assert list(finished.stages) == ["unpack", "admission", "engine_queue", "engine", "render"]
    assert finished.stages["engine"] == 1.0  # of two batches
    assert [(model, rows.shape) for model, rows in setup.triton.requests] == [
        ("cat_decode_k64", (2, 64)),
        ("cat_decode_k256", (2, 256)),
    ]
    for model, rows in setup.triton.requests:
        for row, k in zip(rows, (3, 64) if model.endswith("k64") else (65, 200), strict=True):
            assert row.tolist() == [*range(k), *[-1] * (len(row) - k)]


async def test_decode_progressive_holds_no_permit_for_a_slow_reader() -> None:
    setup = Setup(max_in_flight=1, max_queue_size=0)
    events = setup.tokenization.decode_progressive(TOKENS, [1, 2], "PNG", None)
    async with aclosing(events):
        assert await anext(events) == Preview(1, imaging.encode_image(GREY, "PNG"))
        assert await setup.tokenization.admission.drain(5) == 0
        assert (await setup.tokenization.decode(TOKENS, "PNG", None)).k == 256
        assert 0 < setup.memory.reserved == events.size
        assert len([event async for event in events]) == 2
    assert setup.memory.reserved == 0


async def test_decode_progressive_stops_when_it_is_closed() -> None:
    setup = Setup(max_in_flight=1)
    setup.triton.gate.clear()
    events = setup.tokenization.decode_progressive(TOKENS, [1, 2], "PNG", None)
    waiting = asyncio.ensure_future(anext(events))
    await asyncio.wait_for(setup.triton.started.wait(), 5)
    assert setup.memory.reserved == 2 * 2 * 3 * 128**2
    await events.aclose()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await setup.tokenization.admission.drain(0) == 0
    assert setup.memory.reserved == 0


async def test_decode_refuses_bytes_that_are_no_tokens() -> None:
    with pytest.raises(BadTokens):
        await Setup().tokenization.decode(b"no tokens", "PNG", None)


async def test_decode_refreshes_the_registry_before_it_refuses_a_fingerprint() -> None:
    setup = Setup()
    tokens = Tokens(IDS[:4].astype(np.uint16), B)
    with pytest.raises(FingerprintMismatch):
        await setup.tokenization.decode(tokens, "PNG", None)
    setup.refresh.assert_awaited_once()

    async def publish() -> None:
        both = [*models("cat", A), *models("dog", B)]
        setup.registry.publish(ServedModels(both))

    setup.refresh.side_effect = publish
    assert (await setup.tokenization.decode(tokens, "PNG", None)).tokenizer.name == "dog"


async def test_calls_raise_deadline_exceeded_and_give_back_their_permit() -> None:
    setup = Setup()
    setup.triton.gate.clear()
    with pytest.raises(DeadlineExceeded):
        await setup.tokenization.encode(IMAGE, None, None, timeout=0.02)
    assert await setup.tokenization.admission.drain(0) == 0


async def test_calls_beyond_the_queue_are_refused_and_items_of_streams_wait() -> None:
    setup = Setup(max_in_flight=1, max_queue_size=0)
    setup.triton.gate.clear()
    running = asyncio.create_task(setup.tokenization.encode(IMAGE, 1, None))
    await asyncio.wait_for(setup.triton.started.wait(), 5)
    with pytest.raises(Overloaded):
        await setup.tokenization.encode(IMAGE, 2, None)
    item = asyncio.create_task(setup.tokenization.encode(IMAGE, 3, None, priority=Priority.BULK))
    await asyncio.sleep(0)
    setup.triton.gate.set()
    assert [(await call).tokens.k for call in (running, item)] == [1, 3]


async def test_calls_over_the_rate_limit_are_refused() -> None:
    setup = Setup(RateLimit(0.001, 1))
    await setup.tokenization.encode(IMAGE, None, None)
    with pytest.raises(RateLimited):
        await setup.tokenization.encode(IMAGE, None, None)


async def test_heavy_images_hold_no_permit_while_they_are_decoded() -> None:
    setup = Setup(max_in_flight=1, max_queue_size=0)
    call = asyncio.create_task(setup.tokenization.encode(heavy(), 2, None))
    await asyncio.wait_for(setup.images.started.wait(), 5)
    assert (await setup.tokenization.encode(IMAGE, 1, None)).tokens.k == 1
    setup.images.gate.set()
    encoded = await call
    assert encoded.tokens.k == 2
    assert list(encoded.stages) == ["admission", "unpack", "engine_queue", "engine"]


async def test_heavy_images_are_not_refused_once_they_are_decoded() -> None:
    setup = Setup(max_in_flight=1, max_queue_size=0)
    setup.triton.gate.clear()
    call = asyncio.create_task(setup.tokenization.encode(heavy(), 2, None))
    await asyncio.wait_for(setup.images.started.wait(), 5)
    first = asyncio.create_task(setup.tokenization.encode(IMAGE, 1, None))
    await asyncio.wait_for(setup.triton.started.wait(), 5)
    setup.images.gate.set()
    setup.tokenization.close()
    assert await setup.tokenization.drain(0.2) == 2
    setup.triton.gate.set()
    assert [(await one).tokens.k for one in (first, call)] == [1, 2]
    assert await setup.tokenization.drain(5) == 0


async def test_drain_waits_for_heavy_images_and_counts_those_left() -> None:
    setup = Setup()
    call = asyncio.create_task(setup.tokenization.encode(heavy(), 2, None))
    await asyncio.wait_for(setup.images.started.wait(), 5)
    setup.tokenization.close()
    with pytest.raises(Stopping):
        await setup.tokenization.encode(IMAGE, 1, None)
    assert await setup.tokenization.drain(0.01) == 1
    setup.images.gate.set()
    assert await setup.tokenization.drain(5) == 0
    assert (await call).tokens.k == 2


async def test_heavy_images_that_would_wait_too_long_are_refused() -> None:
    setup = Setup()
    calls = [
        asyncio.create_task(setup.tokenization.encode(heavy(), 2, None))
        for _ in range(1 + HEAVY_QUEUE_SIZE)
    ]
    await asyncio.wait_for(setup.images.started.wait(), 5)
    with pytest.raises(Overloaded, match="1 large images are running, the limit, and 16 wait"):
        await setup.tokenization.encode(heavy(), 2, None)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    assert await setup.tokenization.drain(0) == 0

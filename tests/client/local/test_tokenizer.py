"""Tokenizer: forms of images and tokens, batches, errors, engines, pickling."""

import io
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from channeltok import (
    ChannelTokError,
    FingerprintMismatch,
    InvalidInput,
    Quality,
    Tokenizer,
    Tokens,
    UnknownTokenizer,
)
from channeltok.fit import Fit
from numpy.typing import NDArray
from PIL import Image

import imaging
from tests.support import shipped
from tests.support.photographs import crops, encoded, jpeg, photograph
from tests.support.running import ROOT

CAT = ROOT / "docs/images/cat.jpg"
SIZE = 128


def square(number: int = 0) -> NDArray[np.uint8]:
    """A part of a photograph, uint8 [128, 128, 3]."""
    return np.ascontiguousarray(photograph("chelsea")[number : number + SIZE, 50 : 50 + SIZE])


PIXELS = square()
WIDE = np.ascontiguousarray(photograph("coffee")[:200, :333])
FORMS = {
    "array": lambda pixels: pixels,
    "floats": lambda pixels: pixels.astype(np.float32) / 255,
    "pil": Image.fromarray,
    "file object": lambda pixels: io.BytesIO(encoded(Image.fromarray(pixels), "PNG")),
    "torch": torch.from_numpy,
    "torch, channels first": lambda pixels: torch.from_numpy(pixels).permute(2, 0, 1) / 255,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("fit", ["crop", "pad"])
@pytest.mark.parametrize("pixels", [PIXELS, WIDE], ids=["ready", "wide"])
def test_encode_takes_all_forms_as_the_png_of_their_pixels(
    tokenizer: Tokenizer, pixels: NDArray[np.uint8], fit: Fit, form: str
) -> None:
    expected = tokenizer.encode(encoded(Image.fromarray(pixels), "PNG"), fit=fit)
    tokens = tokenizer.encode(FORMS[form](pixels), fit=fit)
    assert tokens == expected
    assert tokens.view == expected.view


def test_encode_takes_a_path(tokenizer: Tokenizer) -> None:
    expected = tokenizer.encode(CAT.read_bytes(), k=7)
    assert tokenizer.encode(CAT, k=7) == tokenizer.encode(str(CAT), k=7) == expected
    assert expected.k == 7


def test_encode_of_a_batch_is_that_of_each_image(tokenizer: Tokenizer) -> None:
    arrays = np.stack([square(number) for number in range(11)])
    single = [tokenizer.encode(array) for array in arrays]
    for batch in (arrays, list(arrays), tuple(arrays), torch.from_numpy(arrays)):
        assert tokenizer.encode(batch) == single
    mixed = [CAT, arrays[0], jpeg()]
    assert tokenizer.encode(mixed, k=3) == [tokenizer.encode(image, k=3) for image in mixed]
    assert tokenizer.encode([]) == []


def test_encode_by_quality_takes_the_fewest_tokens_that_reach_it(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode(CAT, quality=Quality(ssim=0.4))
    reached = [point.k for point in tokens.curve if point.ssim >= 0.4]
    assert tokens.k == reached[0]
    with pytest.raises(InvalidInput, match="k and quality exclude each other"):
        tokenizer.encode(CAT, 4, quality=Quality(ssim=0.4))


@pytest.mark.parametrize(
    ("image", "code"),
    [
        (b"no image", "BAD_IMAGE"),
        (encoded(Image.new("RGB", (9, 9)), "GIF"), "UNSUPPORTED_FORMAT"),
        (jpeg()[:5000], "BAD_IMAGE"),
        (5, "BAD_IMAGE"),
        (np.zeros((4, 4)), "BAD_IMAGE"),
        ("missing.jpg", "BAD_IMAGE"),
    ],
    ids=["text", "GIF", "cut", "number", "grey", "missing"],
)
def test_encode_refuses_what_is_no_image(tokenizer: Tokenizer, image: Any, code: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        tokenizer.encode(image)
    assert caught.value.code == code
    with pytest.raises(InvalidInput, match=r"number 1 of 3: ") as caught:
        tokenizer.encode([PIXELS, image, PIXELS])
    assert caught.value.code == code


def test_encode_refuses_more_pixels_than_max_pixels() -> None:
    with Tokenizer.from_pretrained("demo", max_pixels=1000) as small:
        for image in (CAT, WIDE):
            with pytest.raises(InvalidInput, match="at most 1,000 are allowed") as caught:
                small.encode(image)
            assert caught.value.code == "TOO_MANY_PIXELS"


@pytest.mark.parametrize("k", [0, 257, -1, "8", 1.5])
def test_k_is_1_to_max_tokens(tokenizer: Tokenizer, k: Any) -> None:
    for call in (tokenizer.encode, tokenizer.encode_dataset):
        with pytest.raises(InvalidInput) as caught:
            call(PIXELS, k=k) if call == tokenizer.encode else call(k=k)
        assert caught.value.code == "BAD_K"
    with pytest.raises(InvalidInput):
        tokenizer.decode(np.arange(300) % 256, k)


def test_encode_refuses_an_unknown_fit(tokenizer: Tokenizer) -> None:
    with pytest.raises(InvalidInput, match="fit is one of crop, pad"):
        tokenizer.encode(PIXELS, fit="stretch")  # type: ignore[arg-type]


def test_encode_stream_gives_errors_as_values(tokenizer: Tokenizer) -> None:
    results = list(tokenizer.encode_stream(iter([PIXELS, b"x", PIXELS]), 4, "demo"))
    assert results[0] == results[2] == tokenizer.encode(PIXELS, 4)
    assert isinstance(results[1], ChannelTokError)
    with pytest.raises(UnknownTokenizer, match="this one is 'demo'"):
        tokenizer.encode_stream([PIXELS], 4, "other")


def test_encode_stream_reads_no_further_ahead_than_its_threads_need() -> None:
    taken = 0

    def images() -> Any:
        nonlocal taken
        for _ in range(1000):
            taken += 1
            yield PIXELS

    with Tokenizer.from_pretrained("demo", threads=1) as one:
        stream = one.encode_stream(images())
        next(stream)
        assert taken <= 20
        stream.close()


def test_decode_takes_all_forms_of_tokens(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode(CAT, k=32)
    expected = tokenizer.decode(tokens).as_numpy()
    ids = tokens.ids.astype(np.int64)
    for form in (
        tokens.to_bytes(),
        tokens.ids,
        ids.tolist(),
        torch.from_numpy(ids),
        np.pad(ids, (0, 5), constant_values=-1),
    ):
        assert (tokenizer.decode(form).as_numpy() == expected).all()
    batch = np.stack([ids, ids])
    for several in (batch, torch.from_numpy(batch), [tokens, ids], batch.tolist()):
        first, second = tokenizer.decode(several)
        assert (first.as_numpy() == expected).all()
        assert (second.as_numpy() == expected).all()
    assert tokenizer.decode([]) == []


def test_decode_of_k_tokens_is_that_of_the_prefix(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode(CAT)
    cut = tokenizer.decode(tokens, k=16).as_numpy()
    assert (cut == tokenizer.decode(tokens.prefix(16)).as_numpy()).all()
    assert (cut != tokenizer.decode(tokens).as_numpy()).any()


def test_decode_cuts_the_bands_of_padded_images(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode(WIDE, fit="pad")
    assert tokenizer.decode(tokens).as_pil().size == (128, 77)
    assert tokenizer.decode(tokens, aspect=(1, 1)).as_pil().size == (128, 128)
    with pytest.raises(InvalidInput, match="an aspect is two whole numbers"):
        tokenizer.decode(tokens, aspect=(0, 1))


def test_decoded_image_has_the_forms_that_people_hold(tokenizer: Tokenizer) -> None:
    decoded = tokenizer.decode(tokenizer.encode(CAT))
    pixels = decoded.as_numpy()
    assert pixels.shape == (128, 128, 3)
    assert pixels.dtype == np.uint8
    assert (np.asarray(decoded.as_pil()) == pixels).all()
    tensor = decoded.as_tensor()
    assert tensor.shape == (3, 128, 128)
    assert tensor.dtype == torch.float32
    assert (tensor.mul(255).round().permute(1, 2, 0).numpy() == pixels).all()
    assert (imaging.prepare(decoded.to_bytes(), 128) == pixels).all()
    with pytest.raises(InvalidInput, match="format is one of png, jpeg, webp"):
        decoded.to_bytes("bmp")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (b"CTOK", "the token bytes end after 4 bytes"),
        ([1, 2, 70000], "token ids are 0 to 65535, not 70000"),
        ([1, -1, 2], "token ids are 0 to 65535, not -1"),
        ([-1, -1], "there are 1 to 65535 tokens, not 0"),
        (np.zeros(257, np.int64), "257 ids; tokenizer 'demo' takes 1 to 256"),
        (np.zeros(3), "token ids are integers, not float64"),
        (np.zeros((1, 2, 3), np.int64), "one-dimensional"),
        ("text", "token ids are one-dimensional"),
    ],
    ids=range(8),
)
def test_decode_refuses_what_are_no_tokens(tokenizer: Tokenizer, tokens: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        tokenizer.decode(tokens)
    assert caught.value.code == "BAD_TOKENS"


def test_decode_refuses_tokens_of_another_training(tokenizer: Tokenizer) -> None:
    with pytest.raises(FingerprintMismatch, match=f"has fingerprint {shipped.DEMO}"):
        tokenizer.decode(Tokens([1, 2], "0" * 16))


def test_several_threads_may_call_it(tokenizer: Tokenizer) -> None:
    images = crops(24)
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(tokenizer.encode, images)) == tokenizer.encode(list(images))


def test_pickle_opens_the_same_source_again(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pickled = pickle.dumps(tokenizer)
    assert len(pickled) < 1000
    with pickle.loads(pickled) as copy:
        assert copy.encode(CAT) == tokenizer.encode(CAT)
    tokenizer.save_pretrained(tmp_path / "saved")
    monkeypatch.chdir(tmp_path)
    relative = pickle.dumps(Tokenizer.from_pretrained("saved"))
    monkeypatch.chdir("/")
    with pickle.loads(relative) as copy:
        assert copy.info == tokenizer.info
    changed = relative.replace(shipped.DEMO.encode(), b"0" * 16)
    with pytest.raises(FingerprintMismatch, match="when it was pickled"):
        pickle.loads(changed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "tensorrt"}, "engine is one of onnxruntime, openvino, torch, not 'tensorrt'"),
        ({"engine": "torch"}, "a checkpoint runs on the engine torch"),
        ({"precision": "f16"}, "precision is f32 or bf16, not 'f16'"),
        ({"precision": "int8", "engine": "openvino"}, "precision is f32 or bf16, not 'int8'"),
        ({"precision": "bf16"}, "engine onnxruntime computes in f32, not in bf16"),
        ({"threads": 0}, "threads is at least 1, not 0"),
    ],
)
def test_from_pretrained_says_what_is_allowed(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Tokenizer.from_pretrained("demo", **options)


def test_openvino_in_f32_differs_by_rounding_alone(tokenizer: Tokenizer) -> None:
    images = list(crops(12))
    with Tokenizer.from_pretrained("demo", engine="openvino") as other:
        tokens, expected = other.encode(images), tokenizer.encode(images)
        flipped = sum(bits_that_differ(a, b) for a, b in zip(tokens, expected, strict=True))
        assert flipped <= 1  # as in export/graphs/parity.py
        pixels = other.decode(expected[0]).as_numpy().astype(int)
        assert abs(pixels - tokenizer.decode(expected[0]).as_numpy()).max() <= 1


def test_checkpoint_runs_on_torch_and_differs_by_rounding_alone(tokenizer: Tokenizer) -> None:
    images = list(crops(12))
    with Tokenizer.from_pretrained(ROOT / "tokenizer/weights/demo.safetensors") as other:
        assert other.info.fingerprint == tokenizer.info.fingerprint
        tokens, expected = other.encode(images), tokenizer.encode(images)
        flipped = sum(bits_that_differ(a, b) for a, b in zip(tokens, expected, strict=True))
        assert flipped <= 1
        pixels = other.decode(expected[0], k=9).as_numpy().astype(int)
        assert abs(pixels - tokenizer.decode(expected[0], k=9).as_numpy()).max() <= 1


def bits_that_differ(a: Tokens, b: Tokens) -> int:
    return int(np.unpackbits((a.ids ^ b.ids).view(np.uint8)).sum())

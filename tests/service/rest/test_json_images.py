"""Images as base64 in JSON: exact bytes, limits of the decoded size, clear refusals, no stalls."""

import base64
import json
import random
import time

import pytest

from service.errors import BadRequest, TooLarge
from service.rest.documents import EncodeDocument
from service.rest.json_images import base64_characters, decode_base64, once, parse_encode


@pytest.mark.parametrize("size", [0, 1, 2, 3, 2**18 // 4 * 3, 2**18 // 4 * 3 + 1, 500_000])
async def test_decode_base64_gives_the_bytes(size: int) -> None:
    data = random.Random(size).randbytes(size)
    text = base64.b64encode(data).decode()
    assert len(text) == base64_characters(size)
    assert await decode_base64(text, size) == data


@pytest.mark.parametrize("size", [1, 2, 3, 4, 1000, 300_000])
async def test_decode_base64_limits_the_decoded_bytes(size: int) -> None:
    text = base64.b64encode(bytes(size)).decode()
    with pytest.raises(TooLarge, match=f"{size - 1:,} "):
        await decode_base64(text, size - 1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("AAA", "Incorrect padding"),
        ("AA==AAAA", "="),
        ("A" * (2**18 - 2) + "==AAAA", "before its end"),
        ("AAAA\nAAAA", "line breaks"),
        ("-_-_", "A-Z a-z 0-9 [+] /"),
        ("ÄAAA", "A-Z a-z"),
        ("data:image/png;base64,AAAA", "data URL"),
    ],
)
async def test_decode_base64_says_what_is_wrong(text: str, said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        await decode_base64(text, 2**20)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "the body"),
        (b"[]", "the body"),
        (b'{"k": 4}', "image: Field required"),
        (b'{"image": 4}', "image: Input should be a valid string"),
        (b'{"image": "", "k": true}', "k: Input should be a valid integer"),
        (b'{"image": "", "k": "8"}', "k: Input should be a valid integer"),
        (b'{"image": "", "tokeniser": "demo"}', "tokeniser: Extra inputs"),
        (b'{"image": "", "x": [' + b"{}," * 100 + b"{}]}", "image, k, quality, fit, tokenizer"),
    ],
)
def test_parse_encode_says_what_is_wrong(body: bytes, said: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_encode(body)
    assert said in caught.value.detail


def test_parse_encode_does_not_parse_mebibytes_of_small_values() -> None:
    started = time.thread_time()
    with pytest.raises(BadRequest):
        parse_encode(b'{"image": [' + b"{}," * 5_000_000 + b"{}]}")
    assert time.thread_time() - started < 0.5  # parsed it would take seconds


def test_once_takes_each_parameter_from_one_place() -> None:
    query = {"k": 4, "quality": None, "fit": None, "tokenizer": None}
    document = parse_encode(json.dumps({"image": "", "fit": "pad", "k": None}).encode())
    assert once(query, document) == {**query, "fit": "pad"}
    with pytest.raises(BadRequest, match="k is given in the query and in the body"):
        once(query, EncodeDocument(image="", k=4))

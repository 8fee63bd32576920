"""Text to image with the real service: CAR beside a GPT in one real Triton, over every face."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from channeltok import (
    AsyncClient,
    ChannelTokError,
    Client,
    Generated,
    GenerateParams,
    InvalidInput,
    NewTokens,
    Preview,
    Started,
    Tokens,
    TooLarge,
)
from channeltok.cli import main as channeltok

from tests.support import random_car
from tests.support.bad_input import assert_problem
from tests.support.internals import internals
from tests.support.random_car import CLASSES, ODD_TEXTS
from tests.support.running import Service, running

PROMPT = "a photo of bee"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    models = tmp_path_factory.mktemp("prompts") / "models"
    random_car.write_beside_a_gpt(models)
    with running(model_repository=str(models), probe_seconds="1") as running_service:
        yield running_service
        log = running_service.log
        assert running_service.process.poll() is None
        assert not [line for line in log if "internal_error" in line or "Traceback" in line]
        assert not [line for line in log if '"not_ready"' in line or '"killing"' in line]


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[Client]:
    with Client(service.grpc, timeout=60) as connected:
        yield connected


def generated(client: Client, **params: Any) -> tuple[str, Tokens]:
    """(name of the generator, tokens)"""
    started, *_, last = client.generate(GenerateParams(**params))
    assert isinstance(started, Started)
    assert isinstance(last, Generated)
    return started.generator, last.tokens


def test_generators_say_what_they_take(service: Service, client: Client) -> None:
    labels, words = client.generators()
    assert (labels.name, labels.family, labels.max_prompt_bytes) == ("labels", "gpt", 0)
    assert (words.name, words.family, words.max_prompt_bytes) == ("words", "car", 992)
    assert words.classes == tuple(CLASSES)
    listed = httpx.get(f"{service.rest}/v1/generators").json()["generators"]
    assert [one["max_prompt_bytes"] for one in listed] == [0, 992]


WANTED: dict[str, Any] = {"prompt": PROMPT, "k": 20, "seed": 5}


async def test_prompt_gives_the_same_tokens_to_the_async_client(
    service: Service, client: Client
) -> None:
    async with AsyncClient(service.grpc) as connected:
        *_, last = [event async for event in connected.generate(GenerateParams(**WANTED))]
    assert isinstance(last, Generated)
    assert ("words", last.tokens) == generated(client, **WANTED)


def test_prompt_gives_the_same_tokens_over_rest_and_on_the_command_line(
    service: Service, client: Client, tmp_path: Path
) -> None:
    _, tokens = generated(client, **WANTED)
    reply = httpx.post(f"{service.rest}/v1/generate", json=WANTED, timeout=60)
    done = json.loads(reply.text.strip().split("\n\n")[-1].partition("data: ")[2])
    assert done["tokens"] == tokens.ids.tolist()
    file, image = tmp_path / "bee.ctok", tmp_path / "bee.png"
    options = ["--prompt", PROMPT, "-k", "20", "--seed", "5", "--tokens", str(file)]
    channeltok(["generate", *options, "-o", str(image), "--server", service.grpc])
    assert image.read_bytes() == client.decode(tokens, "png")
    assert Tokens.from_bytes(file.read_bytes()) == tokens


def test_calls_without_a_name_go_to_a_generator_that_reads_them(client: Client) -> None:
    assert generated(client, prompt=PROMPT, k=2)[0] == "words"
    assert generated(client, class_name="bee", k=2)[0] == "labels"
    assert generated(client, k=2)[0] == "labels"
    assert generated(client, generator="words", k=2)[0] == "words"


def test_every_prompt_gives_an_image_of_its_own(client: Client) -> None:
    # Random weights heed a text little.
    tokens = [
        generated(client, prompt=prompt, seed=1, guidance=20.0)[1]
        for prompt in [PROMPT, *ODD_TEXTS]
    ]
    assert len({one.to_bytes() for one in tokens}) == len(tokens)
    assert generated(client, prompt=PROMPT, seed=1, guidance=20.0)[1] == tokens[0]
    nothing = generated(client, generator="words", prompt="", seed=1)[1]
    assert nothing == generated(client, generator="words", seed=1)[1]
    assert nothing == generated(client, prompt="a photo", seed=1)[1]
    # Of the same letters, composed or not
    pair = [generated(client, prompt=prompt, seed=1)[1] for prompt in ("\u00e9", "e\u0301")]
    assert pair[0] == pair[1]


def test_prompts_go_on_are_guided_and_are_shown(client: Client) -> None:
    params = GenerateParams(prompt=PROMPT, seed=3, guidance=3.0, previews=[4, 16])
    sent = time.monotonic()
    first = 0.0
    previews, last = list[int](), None
    for event in client.generate(params):
        if isinstance(event, NewTokens):
            first = first or time.monotonic() - sent
        if isinstance(event, Preview):
            previews.append(event.k)
        last = event
    assert isinstance(last, Generated)
    assert 0 < first < 5
    assert previews == [4, 16]
    assert last.tokens != generated(client, prompt=PROMPT, seed=3)[1]
    prefix = last.tokens.prefix(9)
    continued = generated(client, prompt=PROMPT, seed=3, guidance=3.0, prefix=prefix)[1]
    assert np.array_equal(continued.ids, last.tokens.ids)


BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "too long": ({"prompt": "b" * 993}, "BAD_PROMPT", "993 bytes in UTF-8; .* at most 992"),
    "far too long": ({"prompt": "\u8702" * 20_000}, "BAD_PROMPT", "60,000 bytes"),
    "longer as one": ({"prompt": "\u0958" * 300}, "BAD_PROMPT", "1,800 bytes"),
    "for a GPT": ({"prompt": "b", "generator": "labels"}, "BAD_PROMPT", "takes a class"),
    "class": ({"class_name": "bee", "generator": "words"}, "UNKNOWN_CLASS", "takes a prompt"),
    "both": ({"class_name": "bee", "prompt": "b"}, "UNKNOWN_CLASS", "takes a prompt"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_prompt(service: Service, client: Client, name: str) -> None:
    wrong, code, said = BAD[name]
    with pytest.raises(InvalidInput, match=said) as caught:
        next(client.generate(GenerateParams(**wrong)))
    assert caught.value.code == code
    assert internals(caught.value.message) is None
    body = {"class" if key == "class_name" else key: value for key, value in wrong.items()}
    reply = httpx.post(f"{service.rest}/v1/generate", json=body)
    assert_problem(reply, 422, code)
    assert reply.json()["detail"] == caught.value.message


def test_prompt_of_100_kb_is_refused_before_it_is_read(service: Service, client: Client) -> None:
    prompt = 100_000 * "b"
    with pytest.raises(TooLarge, match="at most"):
        next(client.generate(GenerateParams(prompt=prompt)))
    reply = httpx.post(f"{service.rest}/v1/generate", json={"prompt": prompt})
    assert_problem(reply, 413, "TOO_LARGE")


def test_prompt_of_half_a_character_is_refused(service: Service) -> None:
    with pytest.raises(ChannelTokError, match="not valid Unicode") as caught:
        GenerateParams(prompt="\ud83d")
    assert caught.value.code == "BAD_PROMPT"
    reply = httpx.post(
        f"{service.rest}/v1/generate",
        content=rb'{"prompt": "\ud83d"}',
        headers={"Content-Type": "application/json"},
    )
    assert_problem(reply, 400, "BAD_REQUEST")

"""Generate with the real service and the real Triton.

Only the neural network is replaced (tests/support/sketch_generator/model.py).
"""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from channeltok import (
    AsyncClient,
    ChannelTokError,
    Client,
    DeadlineExceeded,
    Generated,
    GenerateParams,
    NewTokens,
    Overloaded,
    Preview,
    Started,
    Tokens,
    Unavailable,
    UnknownGenerator,
)
from channeltok.cli import main as channeltok
from channeltok.v1 import tokenizer_pb2 as pb
from channeltok.v1 import tokenizer_pb2_grpc

from tests.support.bad_input import assert_problem
from tests.support.internals import internals
from tests.support.metrics import sample
from tests.support.photographs import jpeg
from tests.support.running import Service, eventually, running
from tests.support.sketch_generator import repository
from tests.support.sketch_generator.repository import (
    CLASSES,
    GENERATOR_FINGERPRINT,
    GeneratorRepository,
)

PAUSE = 0.03  # seconds for a token
LONG = 256  # tokens: 8 s
PLACES = 2


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> GeneratorRepository:
    return repository.write(tmp_path_factory.mktemp("generator"), PAUSE)


@pytest.fixture(scope="module")
def generating(made: GeneratorRepository) -> Iterator[Service]:
    settings = {
        "max_generations": str(PLACES),
        "engine_instances": "2",
        "probe_seconds": "1",
        "engine_timeout_seconds": "4",
    }
    with running(model_repository=str(made.models), **settings) as service:
        yield service
        assert service.process.poll() is None
        assert not [line for line in service.log if "internal_error" in line or "Traceback" in line]
        assert not [
            line for line in service.log if '"not_ready"' in line
        ]  # single images do without a generator


@pytest.fixture(scope="module")
def caller(generating: Service) -> Iterator[Client]:
    with Client(generating.grpc, timeout=60) as client:
        client.decode(client.encode(jpeg(), 8))  # engines are slower the first time
        yield client


@pytest.fixture(scope="module")
def web(generating: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=generating.rest, timeout=60) as client:
        yield client


@pytest.fixture(autouse=True)
def nothing_left(made: GeneratorRepository) -> Iterator[None]:
    yield
    eventually(lambda: made.sequences() == 0, 5, "the end of all sequences")


def events(web: httpx.Client, **wanted: Any) -> list[tuple[str, Any]]:
    """What REST streams: (event, data)."""
    reply = web.post("/v1/generate", json=wanted).raise_for_status()
    assert reply.headers["content-type"].startswith("text/event-stream")
    return [parsed(block) for block in reply.text.strip().split("\n\n")]


def parsed(block: str) -> tuple[str, Any]:
    name, data = block.split("\n")
    return name.removeprefix("event: "), json.loads(data.removeprefix("data: "))


def tokens_of(client: Client, **params: Any) -> Tokens:
    *_, last = client.generate(GenerateParams(**params))
    assert isinstance(last, Generated)
    return last.tokens


def test_list_generators_describes_the_generator(caller: Client, web: httpx.Client) -> None:
    (info,) = caller.generators()
    (tokenizer,) = caller.tokenizers()
    assert (info.name, info.family, info.generator_fingerprint, info.max_tokens) == (
        "sketch",
        "gpt",
        GENERATOR_FINGERPRINT,
        256,
    )
    assert (info.tokenizer, info.fingerprint, info.classes) == (
        tokenizer.name,
        tokenizer.fingerprint,
        CLASSES,
    )
    assert web.get("/v1/generators").json() == {
        "generators": [{**vars(info), "classes": list(CLASSES)}]
    }
    assert {"/v1/generate", "/v1/generators"} <= set(web.get("/openapi.json").json()["paths"])


def test_decode_takes_generated_tokens(caller: Client, web: httpx.Client) -> None:
    *_, (_, done) = events(web, k=12, seed=7)
    image = web.post("/v1/decode", json=done).raise_for_status().content
    assert image == caller.decode(tokens_of(caller, k=12, seed=7))


async def test_same_seed_gives_the_same_tokens_over_every_protocol(
    generating: Service, caller: Client, web: httpx.Client
) -> None:
    started, *new, last = caller.generate(GenerateParams(class_name="cat", k=12, seed=7))
    assert isinstance(started, Started)
    assert isinstance(last, Generated)
    assert (started.generator, started.tokenizer, started.seed, started.k) == (
        "sketch",
        "demo",
        7,
        12,
    )
    assert [
        one for event in new if isinstance(event, NewTokens) for one in event.ids
    ] == last.tokens.ids.tolist()
    assert last.engine == "onnxruntime f32"
    async with AsyncClient(generating.grpc) as client:
        *_, also = [
            event async for event in client.generate(GenerateParams(class_name="cat", k=12, seed=7))
        ]
    assert also == last
    (_, start), *_, (name, done) = events(web, **{"class": "cat"}, k=12, seed=7)
    assert start == {
        "generator": "sketch",
        "tokenizer": "demo",
        "fingerprint": last.tokens.fingerprint,
        "seed": 7,
        "k": 12,
    }
    assert (name, done["tokens"], done["fingerprint"]) == (
        "done",
        last.tokens.ids.tolist(),
        last.tokens.fingerprint,
    )
    assert tokens_of(caller, class_name="cat", k=12, seed=8) != last.tokens
    assert tokens_of(caller, class_name="dog", k=12, seed=7) != last.tokens
    greedy = [tokens_of(caller, class_name="cat", k=4, seed=seed, temperature=0) for seed in (1, 2)]
    assert greedy[0] == greedy[1]
    assert tokens_of(caller, k=30, top_k=5).ids.max() < 5


def test_drawn_seed_repeats_the_image(caller: Client) -> None:
    started, *_, last = caller.generate(GenerateParams(k=6))
    again = tokens_of(caller, k=6, seed=started.seed)
    assert again == last.tokens
    assert tokens_of(caller, k=6) != again


def test_tokens_arrive_as_they_are_made(caller: Client) -> None:
    began = time.perf_counter()
    times = [
        time.perf_counter() - began
        for event in caller.generate(GenerateParams(k=40))
        if isinstance(event, NewTokens)
    ]
    assert times[-1] >= 40 * PAUSE
    assert times[0] < times[-1] / 2
    assert len(times) > 20  # on a busy machine a few may come together


def test_prefix_is_continued(caller: Client, web: httpx.Client) -> None:
    prefix = caller.encode(jpeg(), 10)
    _, *new, last = caller.generate(GenerateParams(k=16, seed=1, prefix=prefix))
    assert last.tokens.prefix(10) == prefix
    assert (new[0].index, sum(len(event.ids) for event in new)) == (10, 6)
    *_, (_, done) = events(
        web, k=16, seed=1, prefix={"fingerprint": prefix.fingerprint, "tokens": prefix.ids.tolist()}
    )
    assert done["tokens"] == last.tokens.ids.tolist()
    assert [
        type(event)
        for event in caller.generate(GenerateParams(k=10, prefix=prefix.to_bytes(), previews=[5]))
    ] == [Started, Preview, Generated]


def test_previews_equal_decode_and_delay_no_token(caller: Client, web: httpx.Client) -> None:
    seen = list(caller.generate(GenerateParams(k=60, seed=3, previews=[60, 4, 30, 4])))
    assert isinstance(seen[-1], Generated)
    tokens = seen[-1].tokens
    assert [(event.k, event.image) for event in seen if isinstance(event, Preview)] == [
        (k, caller.decode(tokens.prefix(k))) for k in (4, 30, 60)
    ]
    first = next(place for place, event in enumerate(seen) if isinstance(event, Preview))
    before = sum(len(event.ids) for event in seen[:first] if isinstance(event, NewTokens))
    assert 4 <= before < 60
    (_, _), *rest = events(web, k=4, seed=3, previews=[4], preview_format="jpeg")
    assert next(data for name, data in rest if name == "preview")["media_type"] == "image/jpeg"


FOREIGN = Tokens([1, 2], "0123456789abcdef")
BAD: dict[
    str, tuple[dict[str, Any], str, int, str]
] = {  # name -> (what is wrong, code, status, what the sentence must say)
    "unknown generator": ({"generator": "nobody"}, "UNKNOWN_GENERATOR", 404, "sketch"),
    "unknown class": (
        {"class_name": "unicorn"},
        "UNKNOWN_CLASS",
        422,
        "cat, dog, house, .* and 33 more",
    ),
    "prompt for a class": ({"prompt": "a cat"}, "BAD_PROMPT", 422, "takes a class, not a prompt"),
    "no token": ({"k": 0}, "BAD_K", 422, "1 to 256"),
    "too many tokens": ({"k": 257}, "BAD_K", 422, "1 to 256"),
    "temperature below 0": ({"temperature": -0.5}, "BAD_SAMPLING", 422, "0 to 10"),
    "temperature is none": ({"temperature": float("nan")}, "BAD_SAMPLING", 422, "0 to 10"),
    "temperature without end": ({"temperature": float("inf")}, "BAD_SAMPLING", 422, "0 to 10"),
    "final temperature": ({"final_temperature": 10.5}, "BAD_SAMPLING", 422, "final_temp.* 0 to 10"),
    "top_k": ({"top_k": 65537}, "BAD_SAMPLING", 422, "65536"),
    "top_p of 0": ({"top_p": 0.0}, "BAD_SAMPLING", 422, "over 0 to 1"),
    "top_p of 0 in float32": ({"top_p": 1e-50}, "BAD_SAMPLING", 422, "over 0 to 1"),
    "top_p over 1": ({"top_p": 1.5}, "BAD_SAMPLING", 422, "over 0 to 1"),
    "guidance below 0": ({"guidance": -1.0}, "BAD_SAMPLING", 422, "0 to 20"),
    "guidance is none": ({"guidance": float("nan")}, "BAD_SAMPLING", 422, "0 to 20"),
    "seed": ({"seed": 2**63}, "BAD_SAMPLING", 422, "9223372036854775807"),
    "preview of nothing": ({"k": 8, "previews": [0]}, "BAD_K", 422, "1 to 8"),
    "preview behind the end": ({"k": 8, "previews": [4, 9]}, "BAD_K", 422, "1 to 8"),
    "too many previews": ({"previews": list(range(1, 10))}, "BAD_REQUEST", 400, "at most 8"),
    "another's prefix": ({"prefix": FOREIGN}, "FINGERPRINT_MISMATCH", 409, "0123456789abcdef"),
    "prefix longer than k": ({"k": 3, "prefix": 4}, "BAD_TOKENS", 422, "4 tokens"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(caller: Client, web: httpx.Client, made: GeneratorRepository, name: str) -> None:
    wrong, code, status, said = BAD[name]
    if isinstance(wrong.get("prefix"), int):
        wrong = {
            **wrong,
            "prefix": Tokens([5] * wrong["prefix"], caller.generators()[0].fingerprint),
        }
    with pytest.raises(ChannelTokError, match=said) as caught:
        next(caller.generate(GenerateParams(**wrong)))
    assert caught.value.code == code
    assert internals(caught.value.message) is None
    body = {"class" if key == "class_name" else key: value for key, value in wrong.items()}
    if isinstance(tokens := body.get("prefix"), Tokens):
        body["prefix"] = {"fingerprint": tokens.fingerprint, "tokens": tokens.ids.tolist()}
    reply = web.post(
        "/v1/generate", content=json.dumps(body), headers={"Content-Type": "application/json"}
    )
    assert_problem(reply, status, code)
    assert reply.json()["detail"] == caught.value.message


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"k": "8"}',
        b'{"k": 1.5}',
        b'{"steps": 3}',
        b'{"prefix": {"tokens": 5}}',
        b'{"preview_format": "gif"}',
        b"[" * 60_000,
        b"\xff",
    ],
)
def test_generate_refuses_invalid_bodies(web: httpx.Client, body: bytes) -> None:
    reply = web.post("/v1/generate", content=body, headers={"Content-Type": "application/json"})
    assert_problem(reply, 400, "BAD_REQUEST")
    assert internals(reply.text) is None


def test_generate_refuses_invalid_token_bytes(caller: Client) -> None:
    with pytest.raises(ChannelTokError) as caught:
        next(caller.generate(GenerateParams(prefix=b"CTOKxx")))
    assert caught.value.code == "BAD_TOKENS"


@pytest.mark.parametrize("way", ["gRPC", "REST"])
def test_disconnecting_stops_the_engine(
    caller: Client, generating: Service, made: GeneratorRepository, way: str
) -> None:
    cancelled = sample(
        generating, "channeltok_request_seconds_count", rpc="generate", code="CANCELLED"
    )
    if way == "gRPC":
        stream = caller.generate(GenerateParams(k=LONG))
        assert isinstance(next(stream), Started)
        eventually(lambda: made.sequences() == 1, 3, "the sequence alone, without a probe")
        stream.close()
    else:
        with httpx.stream("POST", f"{generating.rest}/v1/generate", json={"k": LONG}) as reply:
            assert next(reply.iter_lines()) == "event: start"
            eventually(lambda: made.sequences() == 1, 3, "the sequence alone, without a probe")
    eventually(lambda: made.sequences() == 0, 3, "the end of the sequence, which had 8 s to go")
    eventually(
        lambda: sample(generating, "channeltok_generations_in_flight") == 0, 3, "a free place"
    )
    assert (
        sample(generating, "channeltok_request_seconds_count", rpc="generate", code="CANCELLED")
        == cancelled + 1
    )


def test_deadline_stops_the_engine(generating: Service, made: GeneratorRepository) -> None:
    with Client(generating.grpc, timeout=1) as hasty:
        stream = hasty.generate(GenerateParams(k=LONG))
        next(stream)
        with pytest.raises(DeadlineExceeded):
            list(stream)
    eventually(lambda: made.sequences() == 0, 3, "the end of the sequence")


def test_too_many_generations_are_refused_and_single_images_are_not(
    caller: Client, web: httpx.Client, generating: Service
) -> None:
    streams = [caller.generate(GenerateParams(k=LONG)) for _ in range(PLACES)]
    try:
        for stream in streams:
            next(stream)
        assert (
            sample(generating, "channeltok_generations_in_flight")
            == PLACES
            == sample(generating, "channeltok_generations_in_flight_limit")
        )
        with pytest.raises(Overloaded) as caught:
            next(caller.generate(GenerateParams(k=1)))
        assert caught.value.code == "OVERLOADED"
        assert caught.value.retry_after is not None
        assert caught.value.retry_after >= 1
        reply = web.post("/v1/generate", json={"k": 1})
        assert_problem(reply, 429, "OVERLOADED")
        assert int(reply.headers["retry-after"]) >= 1
        tokens = caller.encode(jpeg(), 8)
        assert caller.decode(tokens)
    finally:
        for stream in streams:
            stream.close()
    eventually(
        lambda: sample(generating, "channeltok_generations_in_flight") == 0, 3, "free places"
    )
    assert tokens_of(caller, k=1)


def tokens_or_none(caller: Client) -> Tokens | None:
    try:
        return tokens_of(caller, k=5, seed=1)
    except ChannelTokError:
        return None


@contextmanager
def replaced(generating: Service, caller: Client) -> Iterator[None]:
    """The body breaks the generator's process. Its successor must make the same tokens."""

    def restarts() -> float:
        return sample(generating, "channeltok_engine_restarts_total", component="sketch_generate")

    before, due = restarts(), tokens_of(caller, k=5, seed=1)
    yield
    eventually(lambda: restarts() > before, 10, "the restart")
    eventually(lambda: tokens_or_none(caller) == due, 20, "the same tokens again")


@pytest.mark.parametrize("fault", ["rubbish", "hang", "die"])
def test_generator_that_fails_midway_is_replaced(
    caller: Client, generating: Service, made: GeneratorRepository, fault: str
) -> None:
    with replaced(generating, caller):
        stream = caller.generate(GenerateParams(k=LONG))
        next(stream)  # while it runs, no probe takes the fault
        made.fault.write_text(fault)
        with pytest.raises(Unavailable):
            list(stream)
        assert httpx.get(f"{generating.rest}/readyz").status_code == 200  # single images go on


def test_error_midway_is_the_last_event(
    generating: Service, made: GeneratorRepository, caller: Client
) -> None:
    with replaced(generating, caller):
        with httpx.stream(
            "POST", f"{generating.rest}/v1/generate", json={"k": LONG}, timeout=30
        ) as reply:
            lines = reply.iter_lines()
            assert next(lines) == "event: start"
            made.fault.write_text("rubbish")
            rest = list(lines)
        name, problem = parsed("\n".join(rest[-3:-1]))
        assert (name, problem["code"], problem["status"]) == ("error", "ENGINE_UNAVAILABLE", 503)
        assert internals(problem["detail"]) is None


def test_metrics(caller: Client, generating: Service) -> None:
    def counted() -> tuple[float, ...]:
        return (
            sample(generating, "channeltok_time_to_first_token_seconds_count", generator="sketch"),
            sample(generating, "channeltok_inter_token_latency_seconds_count", generator="sketch"),
            sample(generating, "channeltok_tokens_total", rpc="generate"),
            sample(generating, "channeltok_request_seconds_count", rpc="generate", code="OK"),
            sample(generating, "channeltok_request_seconds_count", rpc="generate", code="BAD_K"),
            sample(generating, "channeltok_errors_total", rpc="generate", code="BAD_K"),
        )

    before = counted()
    tokens_of(caller, k=5)
    with pytest.raises(ChannelTokError):
        tokens_of(caller, k=0)
    assert [after - earlier for after, earlier in zip(counted(), before, strict=True)] == [
        1,
        4,
        5,
        1,
        1,
        1,
    ]


def test_the_command_line(
    generating: Service,
    caller: Client,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    options = [
        "-k",
        "12",
        "--seed",
        "1",
        "--previews",
        "4,8",
        "--tokens",
        "out.ctok",
        "--server",
        generating.grpc,
    ]
    assert channeltok(["generate", "--class", "cat", "-o", "out.png", *options]) == 0
    tokens = tokens_of(caller, class_name="cat", k=12, seed=1)
    assert Path("out.ctok").read_bytes() == tokens.to_bytes()
    for name, k in (("out.png", 12), ("out.k4.png", 4), ("out.k8.png", 8)):
        assert Path(name).read_bytes() == caller.decode(tokens.prefix(k))
    assert "out.png: 12 tokens by sketch, seed 1" in capfd.readouterr().out
    assert channeltok(["generate", "--class", "unicorn", "-o", "out.png", *options]) == 1
    assert "UNKNOWN_CLASS" in capfd.readouterr().err


def test_generate_without_a_generator_is_refused(client: Client, rest: httpx.Client) -> None:
    assert client.generators() == []
    assert rest.get("/v1/generators").json() == {"generators": []}
    with pytest.raises(UnknownGenerator, match="no generator is served") as caught:
        next(client.generate(GenerateParams(k=3)))
    assert_problem(rest.post("/v1/generate", json={}), 404, caught.value.code)


def test_stop_lets_accepted_generations_finish(tmp_path: Path) -> None:
    made = repository.write(tmp_path, PAUSE)
    with (
        running(model_repository=str(made.models)) as service,
        grpc.insecure_channel(service.grpc) as channel,
    ):
        stub = tokenizer_pb2_grpc.TokenizerStub(channel)
        call = stub.Generate(pb.GenerateRequest(k=60, previews=[60]), timeout=60)
        next(call)
        stopper = threading.Thread(target=service.stop)
        stopper.start()
        eventually(lambda: bool(service.events("draining")), 10, "the drain")
        time.sleep(0.2)
        with pytest.raises(grpc.RpcError) as refused:
            list(stub.Generate(pb.GenerateRequest(k=1), timeout=10))
        assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
        assert "stopping" in refused.value.details()
        rest = list(call)
        stopper.join()
        assert [event.WhichOneof("event") for event in rest[-2:]] == ["preview", "finished"]
        assert Tokens.from_bytes(rest[-1].finished.tokens).k == 60
        assert service.process.returncode == 0
        assert [line["unfinished"] for line in service.events("stopped")] == [0]

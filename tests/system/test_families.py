"""All tokenizer families served together, as `make serve MODEL=all` does.

Each obeys the same laws and gives the same errors.

A family without trained weights has random ones of the same shape: the laws do not depend on them.
"""

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from channeltok import (
    ChannelTokError,
    Client,
    FingerprintMismatch,
    Quality,
    TokenizerInfo,
    Tokens,
    cli,
)
from channeltok.datasets import tokenize

import imaging
from export.graphs import parity
from export.graphs.random_model import random_model, random_of
from export.triton import python_backend, repository
from imaging.similarity import psnr, ssim
from service.engine.cpu import processor_has_bf16
from service.engine.in_process import InProcessEngine
from service.engine.repository import engine_of, parse_config
from service.settings import EngineSettings, Settings
from tests.support import dataset_files, exported_graphs
from tests.support.photographs import crops, jpeg
from tests.support.running import ROOT, Service, running
from tokenizer import checkpoint
from tokenizer.models.base import Tokenizer
from tokenizer.models.channeltok import NarrowDecoder, ShuffleShape
from tokenizer.models.flextok import FlexTok

FAMILIES = {"demo": "channeltok", "narrow": "channeltok", "cvq": "cvq", "flextok": "flextok"}
# Largest pixel difference from f32, in steps of 255, on a processor with bf16
# (docs/decisions/0011). A flow always decodes in f32. The narrow decoders have random weights.
MOST_IN_BF16 = {"demo": 3, "narrow": 8, "cvq": 3, "flextok": 0}
NARROW = ShuffleShape(
    widths=(64, 64, 32, 64),
    full_size_channels=4,
    budget_hint=True,
    narrow_decoders=(
        NarrowDecoder(budget=32, widths=(32, 32, 32, 32)),
        NarrowDecoder(budget=64, widths=(32, 32, 32, 64)),
    ),
)
JPEG, OCTETS = {"Content-Type": "image/jpeg"}, {"Content-Type": "application/octet-stream"}


def model(name: str) -> Tokenizer:
    """The trained tokenizer, or one with random weights. A flow has only two steps, for speed."""
    if name == "narrow":
        return random_of(NARROW)
    trained = ROOT / f"tokenizer/weights/{name}.safetensors"
    found = checkpoint.load(trained) if trained.exists() else random_model(name)
    if isinstance(found, FlexTok):
        found.shape = found.shape.model_copy(update={"steps": 2})
    return found


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the committed graphs of the demo and exported graphs of the others."""
    folder = tmp_path_factory.mktemp("families") / "models"
    shutil.copytree(ROOT / "model_repository", folder, ignore=shutil.ignore_patterns("__pycache__"))
    exported = {"narrow": (32, 64, 256), "cvq": (256,), "flextok": (16, 64)}
    for name, budgets in exported.items():
        tokenizer = model(name)
        decodes = [exported_graphs.decode_graph(tokenizer, name, budget) for budget in budgets]
        repository.write(folder, name, [exported_graphs.encode_graph(tokenizer, name), *decodes])
    return folder


@pytest.fixture(scope="module")
def together(models: Path) -> Iterator[Service]:
    with running(model_repository=str(models), default_tokenizer="demo") as service:
        yield service


@pytest.fixture(scope="module")
def client(together: Service) -> Iterator[Client]:
    with Client(together.grpc, timeout=60) as connected:
        yield connected


@pytest.fixture(scope="module")
def rest(together: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=together.rest, timeout=60) as connected:
        yield connected


@pytest.fixture(scope="module")
def local(models: Path) -> Iterator[InProcessEngine]:
    engine = InProcessEngine(EngineSettings(model_repository=models))
    yield engine
    engine.close()


@pytest.fixture(params=FAMILIES)
def served(client: Client, request: pytest.FixtureRequest) -> TokenizerInfo:
    return next(one for one in client.tokenizers() if one.name == request.param)


def budgets_around(served: TokenizerInfo) -> list[int]:
    """The least k, the largest, and those on both sides of where another decoder takes over."""
    return sorted(
        {1, served.max_tokens, *(k + more for k in served.budgets[:-1] for more in (0, 1))}
    )


def test_all_families_are_served_and_the_demo_is_the_default(
    client: Client, together: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizers = client.tokenizers()
    assert {one.name: one.family for one in tokenizers} == FAMILIES
    assert tokenizers[0].name == "demo"
    assert client.encode(jpeg(), 8) == client.encode(jpeg(), 8, tokenizer="demo")
    assert cli.main(["info", "--server", together.grpc]) == 0
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [[line[0], *line[3:6], *line[7:]] for line in table[1:]] == [
        ["demo", "256", "16", "65536", "256", "1"],
        ["cvq", "256", "12", "4096", "256", "1"],
        ["flextok", "64", "16", "64000", "16", "64", "0.639", "1"],
        ["narrow", "256", "16", "65536", "32", "64", "256", "0.327", "0.343", "1"],
    ]


def test_prefix(client: Client, served: TokenizerInfo) -> None:
    for photo in crops(3):
        everything = client.encode(photo, tokenizer=served.name)
        assert everything.k == served.max_tokens
        for k in budgets_around(served):
            assert client.encode(photo, k, tokenizer=served.name) == everything.prefix(k)


def test_same_tokens_alone_and_inside_any_batch(client: Client, served: TokenizerInfo) -> None:
    photos = crops(60)
    alone = [client.encode(photo, tokenizer=served.name) for photo in photos]
    with ThreadPoolExecutor(16) as pool:
        assert (
            list(pool.map(lambda photo: client.encode(photo, tokenizer=served.name), photos))
            == alone
        )
    assert list(client.encode_stream(photos, tokenizer=served.name)) == alone


def test_same_images_alone_and_in_a_stream_of_all_families_mixed(
    client: Client, local: InProcessEngine
) -> None:
    mixed = []
    for photo in crops(4):
        for served in client.tokenizers():
            everything = client.encode(photo, tokenizer=served.name)
            mixed += [everything.prefix(k) for k in budgets_around(served)]
    alone = [client.decode(tokens) for tokens in mixed]
    assert list(client.decode_stream(mixed)) == alone
    assert list(local.decode_stream(mixed)) == alone


def test_same_tokens_and_images_after_a_restart(client: Client, models: Path) -> None:
    names = list(FAMILIES)
    tokens = [client.encode(photo, tokenizer=name) for name in names for photo in crops(5)]
    decoded = [client.decode(one) for one in tokens]
    with (
        running(model_repository=str(models), default_tokenizer="demo") as second,
        Client(second.grpc, timeout=60) as other,
    ):
        assert [
            other.encode(photo, tokenizer=name) for name in names for photo in crops(5)
        ] == tokens
        assert [other.decode(one) for one in tokens] == decoded


def test_there_and_back_over_both_protocols(
    client: Client, rest: httpx.Client, served: TokenizerInfo
) -> None:
    k = served.max_tokens // 2
    tokens = client.encode(jpeg("coffee"), k, tokenizer=served.name)
    document = rest.post(
        "/v1/encode",
        params={"k": k, "tokenizer": served.name},
        content=jpeg("coffee"),
        headers=JPEG,
    ).json()
    assert (document["tokenizer"], document["fingerprint"]) == (served.name, served.fingerprint)
    assert document["tokens"] == tokens.ids.tolist()
    assert tokens.ids.max() < served.vocab_size
    image = client.decode(tokens, "png")
    header = imaging.open_image(image)
    assert (header.width, header.height) == (served.image_size, served.image_size)
    for body in ({"json": document}, {"content": tokens.to_bytes(), "headers": OCTETS}):
        headers = {**body.pop("headers", {}), "Accept": "image/png"}
        decoded = rest.post("/v1/decode", headers=headers, **body)  # type: ignore[arg-type]
        assert decoded.raise_for_status().content == image


def test_served_values_equal_the_bare_graphs(
    client: Client, models: Path, served: TokenizerInfo
) -> None:
    photos = crops(8)
    tokens = [client.encode(photo, tokenizer=served.name) for photo in photos]
    pixels = np.stack([imaging.prepare(photo, served.image_size) for photo in photos])
    encoder = models / f"{served.name}_encode"
    engine = engine_of(parse_config(encoder), Settings())
    _, _, encode = python_backend.load(encoder / "1/model.onnx", *engine, 1)
    (bare,) = encode({"picture": pixels})
    assert np.array_equal(np.stack([one.ids for one in tokens]), bare)
    for k in served.budgets:
        decode = (models / f"{served.name}_decode_k{k}/1/model.onnx").read_bytes()
        due = parity.run(decode, np.stack([one.ids[:k] for one in tokens]).astype(np.int32)).astype(
            int
        )
        decoded = np.stack(
            [imaging.prepare(client.decode(one.prefix(k)), served.image_size) for one in tokens]
        )
        assert np.abs(decoded - due).max() <= (
            MOST_IN_BF16[served.name] if processor_has_bf16() else 0
        )


def test_several_k_in_one_call_equal_single_calls(client: Client, served: TokenizerInfo) -> None:
    """In any order, whichever decoders they need."""
    tokens = client.encode(jpeg(), tokenizer=served.name)
    ks = budgets_around(served)[::-1]
    ks[0], ks[1] = ks[1], ks[0]
    previews = list(client.decode_progressive(tokens, ks))
    assert [preview.k for preview in previews] == ks
    for preview in previews:
        assert preview.image == client.decode(tokens.prefix(preview.k)), preview.k


def test_ids_above_the_vocabulary_are_refused(
    client: Client, rest: httpx.Client, local: InProcessEngine, served: TokenizerInfo
) -> None:
    good = client.encode(jpeg(), 8, tokenizer=served.name)
    document = {
        "fingerprint": served.fingerprint,
        "tokens": [*good.ids.tolist()[:7], served.vocab_size],
    }
    reply = rest.post("/v1/decode", json=document)
    assert (reply.status_code, reply.json()["code"]) == (422, "BAD_TOKENS")
    if served.vocab_size == 2**16:  # token bytes hold no other id
        return
    bad = Tokens([*good.ids.tolist()[:7], served.vocab_size], served.fingerprint)
    with pytest.raises(ChannelTokError, match=f"0 to {served.vocab_size - 1}") as caught:
        client.decode(bad)
    assert caught.value.code == "BAD_TOKENS"
    for engine in (client, local):
        first, second, third = engine.decode_stream([good, bad, good])
        assert isinstance(second, ChannelTokError)
        assert second.code == "BAD_TOKENS"
        assert first == third == client.decode(good)


def test_k_out_of_range_is_refused(
    client: Client, rest: httpx.Client, local: InProcessEngine, served: TokenizerInfo
) -> None:
    for k in (0, served.max_tokens + 1):
        with pytest.raises(ChannelTokError, match=f"1 to {served.max_tokens}") as caught:
            client.encode(jpeg(), k, tokenizer=served.name)
        assert caught.value.code == "BAD_K"
        reply = rest.post(
            "/v1/encode", params={"k": k, "tokenizer": served.name}, content=jpeg(), headers=JPEG
        )
        assert (reply.status_code, reply.json()["code"]) == (422, "BAD_K")
    too_many = Tokens([0] * (served.max_tokens + 1), served.fingerprint)
    with pytest.raises(ChannelTokError) as caught:
        client.decode(too_many)
    assert caught.value.code == "BAD_TOKENS"
    (refused,) = local.decode_stream([too_many])
    assert isinstance(refused, ChannelTokError)
    assert refused.code == "BAD_TOKENS"


def test_tokens_of_one_family_are_refused_by_every_other(
    client: Client, served: TokenizerInfo
) -> None:
    tokens = client.encode(jpeg(), 8, tokenizer=served.name)
    for other in FAMILIES.keys() - {served.name}:
        with pytest.raises(FingerprintMismatch):
            client.decode(tokens, tokenizer=other)
    with pytest.raises(FingerprintMismatch):
        client.decode(Tokens(tokens.ids, "0123456789abcdef"))


def test_quality_curve_equals_decoding(
    client: Client, local: InProcessEngine, served: TokenizerInfo
) -> None:
    asked = Quality(ssim=0.5, max_bytes=served.max_tokens)  # 2 bytes a token: at most half of them
    tokens = client.encode(jpeg(), tokenizer=served.name, quality=asked)
    assert [one.k for one in tokens.curve] == asked.budgets(served.max_tokens)
    original = imaging.prepare(jpeg(), served.image_size)[None]
    everything = client.encode(jpeg(), tokenizer=served.name)
    for one in tokens.curve:
        decoded = imaging.prepare(
            client.decode(everything.prefix(one.k), "png"), served.image_size
        )[None]
        assert (one.ssim, one.psnr) == pytest.approx(
            (ssim(original, decoded)[0], psnr(original, decoded)[0])
        )
    assert tokens == everything.prefix(asked.choose(tokens.curve).k)
    assert list(local.encode_stream([jpeg()], tokenizer=served.name, quality=asked)) == [tokens]


def test_datasets_by_service_and_in_process_agree(
    together: Service, local: InProcessEngine, served: TokenizerInfo, tmp_path: Path
) -> None:
    dataset_files.tar(
        tmp_path / "source/0.tar",
        [(f"photo-{number:03d}", image) for number, image in enumerate(crops(30))],
    )
    with Client(together.grpc) as client:
        for folder, engine in {"served": client, "local": local}.items():
            summary = tokenize(
                str(tmp_path / "source"),
                str(tmp_path / folder),
                [engine],
                k=24,
                tokenizer=served.name,
            )
            assert summary.images == 30
    served_file, local_file = (
        next((tmp_path / folder).glob("*.parquet")).read_bytes() for folder in ("served", "local")
    )
    assert served_file == local_file

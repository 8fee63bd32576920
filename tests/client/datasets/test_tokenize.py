"""tokenize: every kind of source, and every kind of failure."""

import functools
import http.server
import io
import json
import tarfile
import threading
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from channeltok import ChannelTokError, TokenizerInfo, Tokens
from channeltok.datasets import (
    DestinationMismatch,
    ShardFailed,
    SourceError,
    TooManyRejects,
    retries,
    tokenize,
)
from channeltok.errors import Unavailable
from channeltok.fit import Fit
from channeltok.quality import Quality
from numpy.typing import NDArray
from PIL import Image

from service.engine.in_process import InProcessEngine
from tests.support import dataset_files
from tests.support.photographs import crops, encoded, jpeg

IMAGES = [
    (f"{'ab'[number % 2]}/photo-{number:03d}", image) for number, image in enumerate(crops(40))
]
K = 64


def rows_of(destination: Path) -> dict[str, list[int]]:
    """key -> ids; the keys without the name of the shard, with which those of tars begin."""
    rows = {}
    for path in sorted(destination.glob("**/*.parquet")):
        name = str(path.relative_to(destination).with_suffix(""))
        for row in pq.read_table(path).to_pylist():
            key = row["key"].removeprefix(f"{name}/")
            assert key not in rows
            rows[key] = row["tokens"]
    return rows


@pytest.fixture(scope="module")
def expected(engine: InProcessEngine) -> dict[str, list[int]]:
    stream = engine.encode_stream((image for _, image in IMAGES), K)
    return {
        key: tokens.ids.tolist()
        for (key, _), tokens in zip(IMAGES, stream, strict=True)
        if isinstance(tokens, Tokens)
    }


def test_tokenize_reads_a_folder_tree(
    engine: InProcessEngine, expected: dict[str, list[int]], tmp_path: Path
) -> None:
    source = dataset_files.folder(tmp_path / "photos", IMAGES)
    (source / "README.txt").write_text("no image, and no reject")
    (source / ".thumbnail.jpg").write_bytes(b"hidden")
    summary = tokenize(str(source), str(tmp_path / "tokens"), [engine], k=K)
    assert (summary.images, summary.rejects, summary.shards) == (40, 0, 1)
    assert rows_of(tmp_path / "tokens") == expected
    labels = {
        row["key"]: row["label"]
        for row in pq.read_table(tmp_path / "tokens/images-00000.parquet").to_pylist()
    }
    assert all(label == key[0] for key, label in labels.items())


def test_tokenize_follows_links(engine: InProcessEngine, tmp_path: Path) -> None:
    dataset_files.tar(tmp_path / "blobs/1", [("in-tar", jpeg())])
    (tmp_path / "blobs/2").write_bytes(jpeg())
    links = tmp_path / "links"
    links.mkdir()
    (links / "train.tar").symlink_to(tmp_path / "blobs/1")
    (links / "photo.jpg").symlink_to(tmp_path / "blobs/2")
    (links / "gone.jpg").symlink_to(tmp_path / "blobs/3")
    summary = tokenize(str(links), str(tmp_path / "tokens"), [engine], k=8)
    assert (summary.images, summary.rejects) == (2, 1)
    assert tokenize(f"{links}/*.tar", str(tmp_path / "again"), [engine], k=8).images == 1


def test_tokenize_cuts_a_folder_into_shards_by_its_listing(
    engine: InProcessEngine,
    expected: dict[str, list[int]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("channeltok.datasets.sources.cut.FOLDER_SHARD_IMAGES", 15)
    source = dataset_files.folder(tmp_path / "photos", IMAGES)
    assert tokenize(str(source), str(tmp_path / "tokens"), [engine], k=K).shards == 3
    assert [shard.name for shard in sorted((tmp_path / "tokens").glob("*.parquet"))] == [
        f"images-{n:05d}.parquet" for n in range(3)
    ]
    assert rows_of(tmp_path / "tokens") == expected


def test_tokenize_reads_webdataset_tars(
    engine: InProcessEngine, expected: dict[str, list[int]], tmp_path: Path
) -> None:
    for number in range(2):
        dataset_files.tar(
            tmp_path / f"source/set/train-{number:04d}.tar", IMAGES[number::2], labels=True
        )
    summary = tokenize(str(tmp_path / "source"), str(tmp_path / "tokens"), [engine], k=K)
    assert (summary.shards, summary.images) == (2, 40)
    assert rows_of(tmp_path / "tokens") == expected
    table = pq.read_table(tmp_path / "tokens/set/train-0001.parquet")
    assert set(table.column("label").to_pylist()) == {"0", "1", "2"}
    first = table.to_pylist()[0]
    key = first["key"].removeprefix("set/train-0001/")
    photo = Image.open(io.BytesIO(dict(IMAGES)[key]))
    assert (first["width"], first["height"]) == photo.size
    assert (first["k"], first["tokenizer"], first["fingerprint"]) == (
        K,
        "demo",
        engine.tokenizers()[0].fingerprint,
    )
    # The offset leads to the image's header in the source.
    with open(first["source"], "rb") as file:
        file.seek(first["offset"])
        with tarfile.open(fileobj=file, mode="r|") as rest:
            member = rest.next()
    assert member is not None
    assert member.name == key + ".jpg"


def test_tokenize_numbers_the_images_of_a_tar_sample(
    engine: InProcessEngine, tmp_path: Path
) -> None:
    with tarfile.open(tmp_path / "two.tar", "w") as archive:
        for name in ("x.left.jpg", "x.right.jpg"):
            member = tarfile.TarInfo(name)
            member.size = len(jpeg())
            archive.addfile(member, io.BytesIO(jpeg()))
    summary = tokenize(str(tmp_path / "two.tar"), str(tmp_path / "tokens"), [engine], k=8)
    assert (summary.images, summary.rejects) == (2, 0)
    assert sorted(rows_of(tmp_path / "tokens")) == ["x", "x#1"]


def test_tokenize_reads_hugging_face_parquet(
    engine: InProcessEngine, expected: dict[str, list[int]], tmp_path: Path
) -> None:
    dataset_files.parquet(tmp_path / "source/train.parquet", IMAGES)
    tokenize(str(tmp_path / "source"), str(tmp_path / "tokens"), [engine], k=K)
    table = pq.read_table(tmp_path / "tokens/train.parquet").to_pylist()
    assert [row["tokens"] for row in table] == list(expected.values())
    assert [(row["offset"], row["label"]) for row in table] == [(n, str(n % 3)) for n in range(40)]


def test_tokenize_works_on_any_file_system(
    engine: InProcessEngine, expected: dict[str, list[int]], tmp_path: Path
) -> None:
    dataset_files.tar(tmp_path / "train.tar", IMAGES)
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/source/train.tar", (tmp_path / "train.tar").read_bytes())
    for _ in range(2):
        summary = tokenize("memory://source", "memory://tokens", [engine], k=K)
    assert (summary.done_before, summary.new_images, summary.images) == (1, 0, 40)
    table = pq.read_table(io.BytesIO(fs.cat_file("/tokens/train.parquet"))).to_pylist()
    assert {row["key"].removeprefix("train/"): row["tokens"] for row in table} == expected
    fs.rm("/source", recursive=True)
    fs.rm("/tokens", recursive=True)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def test_tokenize_reads_a_tar_over_http(
    engine: InProcessEngine, expected: dict[str, list[int]], tmp_path: Path
) -> None:
    dataset_files.tar(tmp_path / "web/train.tar", IMAGES)
    handler = functools.partial(_Quiet, directory=str(tmp_path / "web"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        tokenize(
            f"http://127.0.0.1:{server.server_address[1]}/train.tar",
            str(tmp_path / "tokens"),
            [engine],
            k=K,
        )
        server.shutdown()
    assert rows_of(tmp_path / "tokens") == expected


def test_tokenize_writes_webdataset(
    engine: InProcessEngine, expected: dict[str, list[int]], tmp_path: Path
) -> None:
    dataset_files.tar(tmp_path / "train.tar", IMAGES)
    tokenize(
        str(tmp_path / "train.tar"), str(tmp_path / "tokens"), [engine], k=K, container="webdataset"
    )
    with tarfile.open(tmp_path / "tokens/train.tar") as archive:
        contents = {}
        for member in archive:
            file = archive.extractfile(member)
            assert file is not None
            contents[member.name] = file.read()
    assert {
        key: Tokens.from_bytes(contents[f"train/{key}.ctok"]).ids.tolist() for key in expected
    } == expected
    assert json.loads(contents["train/a/photo-000.json"])["k"] == K


def _bad_files() -> dict[str, bytes]:
    """200 of them, of every kind."""
    photo = Image.open(io.BytesIO(jpeg("coffee"))).resize((60, 50))
    good = {
        "jpg": encoded(photo, "JPEG"),
        "png": encoded(photo, "PNG"),
        "webp": encoded(photo, "WEBP"),
    }
    bomb = bytearray(good["png"])
    bomb[16:24] = (9000).to_bytes(4, "big") * 2  # the header claims 81 megapixels
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    frames = encoded(
        photo,
        "WEBP",
        save_all=True,
        append_images=[photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)],
    )
    kinds: list[tuple[str, bytes]] = [
        ("jpg", b""),
        ("jpg", b"no image at all"),
        ("png", bytes(bomb)),
        ("gif", encoded(photo, "GIF")),
        ("bmp", encoded(photo, "BMP")),
        ("tiff", encoded(photo, "TIFF")),
        ("webp", frames),
        ("svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
        *((kind, data[: len(data) // 2]) for kind, data in good.items()),
        *((kind, data[:12]) for kind, data in good.items()),
        ("jpg", bytes(17 * 2**20)),
    ]
    return {
        f"bad-{number:03d}.{kinds[number % len(kinds)][0]}": kinds[number % len(kinds)][1]
        for number in range(200)
    }


def test_tokenize_rejects_exactly_the_bad_images(
    engine: InProcessEngine, expected: dict[str, list[int]], tmp_path: Path
) -> None:
    source = dataset_files.folder(tmp_path / "photos", IMAGES)
    bad = _bad_files()
    for name, content in bad.items():
        (source / name).write_bytes(content)
    summary = tokenize(str(source), str(tmp_path / "tokens"), [engine], k=K, max_rejects="100%")
    rejects = [
        json.loads(line)
        for line in (tmp_path / "tokens/.channeltok/rejects.jsonl").read_text().splitlines()
    ]
    assert sorted(reject["key"] for reject in rejects) == sorted(
        name.rpartition(".")[0] for name in bad
    )
    assert all(reject["reason"] and reject["code"] for reject in rejects)
    assert {"BAD_IMAGE", "UNSUPPORTED_FORMAT", "TOO_MANY_PIXELS", "UNREADABLE"} == {
        reject["code"] for reject in rejects
    }
    assert summary.rejects == 200
    assert rows_of(tmp_path / "tokens") == expected


def test_tokenize_stops_at_max_rejects_and_continues_with_a_higher_limit(
    engine: InProcessEngine, expected: dict[str, list[int]], tmp_path: Path
) -> None:
    dataset_files.tar(tmp_path / "source/good.tar", IMAGES)
    dataset_files.tar(
        tmp_path / "source/zz-bad.tar", [(str(number), b"no image") for number in range(60)]
    )
    with pytest.raises(TooManyRejects, match="5 are allowed"):
        tokenize(str(tmp_path / "source"), str(tmp_path / "tokens"), [engine], k=K, max_rejects=5)
    summary = tokenize(
        str(tmp_path / "source"), str(tmp_path / "tokens"), [engine], k=K, max_rejects=60
    )
    assert summary.rejects == 60
    assert rows_of(tmp_path / "tokens") == expected


def test_tokenize_does_nothing_in_a_second_run(engine: InProcessEngine, tmp_path: Path) -> None:
    dataset_files.tar(tmp_path / "train.tar", IMAGES)
    tokenize(str(tmp_path / "train.tar"), str(tmp_path / "tokens"), [engine], k=K)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "tokens").glob("*.parquet")}
    summary = tokenize(str(tmp_path / "train.tar"), str(tmp_path / "tokens"), [engine], k=K)
    assert (summary.done_before, summary.new_images) == (1, 0)
    assert {
        path: path.stat().st_mtime_ns for path in (tmp_path / "tokens").glob("*.parquet")
    } == before


@pytest.mark.parametrize(
    ("change", "named"),
    [({"k": 32}, "k 64, not 32"), ({"container": "webdataset"}, "container 'parquet'")],
)
def test_tokenize_refuses_other_parameters_in_one_destination(
    engine: InProcessEngine, tmp_path: Path, change: dict[str, object], named: str
) -> None:
    dataset_files.tar(tmp_path / "train.tar", IMAGES[:4])
    tokenize(str(tmp_path / "train.tar"), str(tmp_path / "tokens"), [engine], k=K)
    with pytest.raises(DestinationMismatch, match=named):
        tokenize(
            str(tmp_path / "train.tar"), str(tmp_path / "tokens"), [engine], **{"k": K, **change}
        )  # type: ignore[arg-type]


class _Renamed:
    """The real engine, as it would be after another training."""

    def __init__(self, engine: InProcessEngine) -> None:
        self._engine = engine

    def tokenizers(self) -> list[TokenizerInfo]:
        (info,) = self._engine.tokenizers()
        return [TokenizerInfo(**{**vars(info), "fingerprint": "0123456789abcdef"})]

    def encode_stream(
        self,
        images: Iterable[bytes],
        k: int | None = None,
        tokenizer: str | None = None,
        *,
        quality: Quality | None = None,
        fit: Fit = "crop",
    ) -> Generator[Tokens | ChannelTokError, None, None]:
        yield from self._engine.encode_stream(images, k, tokenizer, quality=quality, fit=fit)


def test_tokenize_refuses_another_fingerprint_in_one_destination(
    engine: InProcessEngine, tmp_path: Path
) -> None:
    dataset_files.tar(tmp_path / "train.tar", IMAGES[:4])
    tokenize(str(tmp_path / "train.tar"), str(tmp_path / "tokens"), [engine], k=K)
    with pytest.raises(DestinationMismatch, match="0123456789abcdef"):
        tokenize(str(tmp_path / "train.tar"), str(tmp_path / "tokens"), [_Renamed(engine)], k=K)


def test_tokenize_fails_when_the_engine_changes_during_a_run(
    engine: InProcessEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "BACKOFF_SECONDS", 0.0)
    dataset_files.tar(tmp_path / "train.tar", IMAGES[:4])
    with pytest.raises(ShardFailed, match="FINGERPRINT_MISMATCH"):
        tokenize(str(tmp_path / "train.tar"), str(tmp_path / "tokens"), [_Renamed(engine)], k=K)
    assert not list((tmp_path / "tokens").glob("*.parquet"))


def test_tokenize_refuses_a_destination_with_foreign_files(
    engine: InProcessEngine, tmp_path: Path
) -> None:
    dataset_files.tar(tmp_path / "train.tar", IMAGES[:4])
    (tmp_path / "tokens").mkdir()
    (tmp_path / "tokens/thesis.parquet").write_text("dear")
    with pytest.raises(DestinationMismatch, match="thesis"):
        tokenize(str(tmp_path / "train.tar"), str(tmp_path / "tokens"), [engine], k=K)


def test_tokenize_refuses_a_source_that_changed(engine: InProcessEngine, tmp_path: Path) -> None:
    dataset_files.tar(tmp_path / "train.tar", IMAGES[:4])
    tokenize(str(tmp_path / "train.tar"), str(tmp_path / "tokens"), [engine], k=K)
    dataset_files.tar(tmp_path / "train.tar", IMAGES)
    with pytest.raises(ShardFailed, match="has changed since"):
        tokenize(str(tmp_path / "train.tar"), str(tmp_path / "tokens"), [engine], k=K)


def _cut_in_an_image(tar: bytes) -> bytes:
    return tar[: len(tar) // 2 // 512 * 512 + 100]


def _cut_in_a_header(tar: bytes) -> bytes:
    return tar[: tar.rindex(b"photo-010.jpg") + 30]


def _cut_between_two(tar: bytes) -> bytes:
    return tar[: tar.rindex(b"a/photo-010.jpg")]


def _a_broken_header(tar: bytes) -> bytes:
    at = tar.rindex(b"a/photo-010.jpg")
    return tar[:at] + b"\xff" * 512 + tar[at + 512 :]


@pytest.mark.parametrize(
    "damage", [_cut_in_an_image, _cut_in_a_header, _cut_between_two, _a_broken_header]
)
def test_tokenize_finishes_all_but_a_damaged_shard(
    engine: InProcessEngine, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    whole = dataset_files.tar(tmp_path / "source/a.tar", IMAGES[:20])
    (tmp_path / "source/b.tar").write_bytes(damage(whole.read_bytes()))
    dataset_files.tar(tmp_path / "source/c.tar", IMAGES[20:])
    with pytest.raises(ShardFailed, match=r"b\.tar"):
        tokenize(str(tmp_path / "source"), str(tmp_path / "tokens"), [engine], k=K)
    assert sorted(path.name for path in (tmp_path / "tokens").glob("*.parquet")) == [
        "a.parquet",
        "c.parquet",
    ]
    summary = json.loads((tmp_path / "tokens/.channeltok/summary.json").read_text())
    assert list(summary["failed"]) == [str(tmp_path / "source/b.tar")]


class _Failing(_Renamed):
    """The real engine behind a connection that breaks in the middle of its first streams."""

    def __init__(self, engine: InProcessEngine, times: int) -> None:
        super().__init__(engine)
        self.left = times

    def tokenizers(self) -> list[TokenizerInfo]:
        return self._engine.tokenizers()

    def encode_stream(
        self,
        images: Iterable[bytes],
        k: int | None = None,
        tokenizer: str | None = None,
        *,
        quality: Quality | None = None,
        fit: Fit = "crop",
    ) -> Iterator[Tokens | ChannelTokError]:  # type: ignore[override]
        for number, result in enumerate(
            super().encode_stream(images, k, tokenizer, quality=quality, fit=fit)
        ):
            if self.left and number == 5:
                self.left -= 1
                raise Unavailable("UNAVAILABLE", "the connection broke")
            yield result


def test_tokenize_retries_a_shard_when_its_engine_fails(
    engine: InProcessEngine,
    expected: dict[str, list[int]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retries, "BACKOFF_SECONDS", 0.01)
    dataset_files.tar(tmp_path / "train.tar", IMAGES)
    assert (
        tokenize(
            str(tmp_path / "train.tar"), str(tmp_path / "tokens"), [_Failing(engine, 2)], k=K
        ).images
        == 40
    )
    assert rows_of(tmp_path / "tokens") == expected
    with pytest.raises(ShardFailed, match="the connection broke"):
        tokenize(str(tmp_path / "train.tar"), str(tmp_path / "again"), [_Failing(engine, 99)], k=K)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "nothing is there"),
        (".", "no images there"),
        ("ftpx://x/y", "ftpx"),
        ("memory://void", "nothing is there"),
    ],
)
def test_tokenize_refuses_a_source_without_images(
    engine: InProcessEngine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(SourceError, match=message):
        tokenize(source, str(tmp_path / "tokens"), [engine], k=K)


@pytest.mark.parametrize("k", [0, -1, 257])
def test_tokenize_refuses_k_out_of_range(engine: InProcessEngine, tmp_path: Path, k: int) -> None:
    dataset_files.tar(tmp_path / "train.tar", IMAGES[:1])
    with pytest.raises(ValueError, match="1 to 256"):
        tokenize(str(tmp_path / "train.tar"), str(tmp_path / "tokens"), [engine], k=k)
    assert not (tmp_path / "tokens").exists()


def test_engine_gives_the_same_tokens_in_any_batch(
    engine: InProcessEngine, expected: dict[str, list[int]]
) -> None:
    """A batch of 16 and a batch of 8 at its end: the same tokens as alone."""
    alone: list[NDArray[np.uint16]] = []
    for _, image in IMAGES[:5]:
        (tokens,) = engine.encode_stream([image], K)
        assert isinstance(tokens, Tokens)
        alone.append(tokens.ids)
    assert [ids.tolist() for ids in alone] == list(expected.values())[:5]

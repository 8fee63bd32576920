"""Datasets of whole images: tokenized with pad, and decoded to their own shapes."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from channeltok import ImageView, InvalidInput
from channeltok.datasets import DestinationMismatch, TokenDataset, detokenize, tokenize, verify
from numpy.typing import NDArray
from PIL import Image

from service import in_process
from service.engine.in_process import InProcessEngine
from tests.support import dataset_files
from tests.support.photographs import encoded, photograph

K = 64
VIEW = ["left", "top", "right", "bottom"]


def _photo(width: int, height: int, orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo = Image.fromarray(photograph("coffee")).resize((width, height))
    return encoded(photo, "JPEG", quality=95, exif=exif)


# Upright sizes by key; the last one is stored lying and turned by its EXIF tag.
SIZES = {"wide": (300, 100), "tall": (90, 181), "square": (160, 160), "turned": (100, 300)}
IMAGES = [
    ("wide", _photo(300, 100)),
    ("tall", _photo(90, 181)),
    ("square", _photo(160, 160)),
    ("turned", _photo(300, 100, orientation=6)),
]


@pytest.fixture(scope="module")
def padded(engine: InProcessEngine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `source`, and `tokens` made of it with pad."""
    folder = tmp_path_factory.mktemp("padded")
    dataset_files.tar(folder / "source/all.tar", IMAGES)
    tokenize(str(folder / "source"), str(folder / "tokens"), [engine], k=K, fit="pad")
    return folder


def _pixels(path: Path) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(path.read_bytes())))


def _sizes(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.stem: _pixels(path).shape[1::-1] for path in folder.rglob("*.*")}


def test_detokenize_gives_padded_images_their_own_shape(
    engine: InProcessEngine, padded: Path, tmp_path: Path
) -> None:
    detokenize(str(padded / "tokens"), tmp_path / "photos", engine, format="png")
    sizes = _sizes(tmp_path / "photos")
    assert sizes == {
        "wide": (128, 43),
        "tall": (64, 128),
        "square": (128, 128),
        "turned": (43, 128),
    }
    wide = _pixels(tmp_path / "photos/all/wide.png").astype(float)
    original = np.asarray(Image.open(io.BytesIO(IMAGES[0][1])).resize((128, 43))).astype(float)
    assert np.square(wide - original).mean() < 0.5 * np.square(original - original.mean()).mean()


def test_detokenize_gives_squares_on_request(
    engine: InProcessEngine, padded: Path, tmp_path: Path
) -> None:
    detokenize(str(padded / "tokens"), tmp_path / "a", engine, format="png", square=True)
    assert set(_sizes(tmp_path / "a").values()) == {(128, 128)}
    tokens, photos = str(padded / "tokens"), str(tmp_path / "b")
    assert in_process.main(["detokenize", tokens, photos, "--square"]) == 0
    assert set(_sizes(tmp_path / "b").values()) == {(128, 128)}
    assert in_process.main(["detokenize", tokens, photos]) == 0
    assert _sizes(tmp_path / "b")["wide"] == (128, 43)


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_tokenize_stores_what_was_seen(engine: InProcessEngine, tmp_path: Path, fit: str) -> None:
    source = dataset_files.tar(tmp_path / "all.tar", IMAGES)
    options = ["-k", str(K), "--fit", fit]
    for container, folder in (("parquet", "tokens"), ("webdataset", "w")):
        arguments = ["tokenize", str(source), str(tmp_path / folder), "--format", container]
        assert in_process.main([*arguments, *options]) == 0
    rows = {row["key"]: row for row in pq.read_table(tmp_path / "tokens/all.parquet").to_pylist()}
    with tarfile.open(tmp_path / "w/all.tar") as tar:
        for key, (width, height) in SIZES.items():
            side = min(width, height)
            left, top = (width - side) / 2, (height - side) / 2
            box = [0, 0, width, height] if fit == "pad" else [left, top, left + side, top + side]
            member = tar.extractfile(f"all/{key}.json")
            assert member is not None
            for row in (rows[f"all/{key}"], json.load(member)):
                assert (row["width"], row["height"]) == (width, height)
                assert [row[name] for name in VIEW] == box
    (key, tokens), *_ = TokenDataset(str(tmp_path / "tokens")).rows()
    assert key == "all/wide"
    (seen,) = engine.encode_stream([IMAGES[0][1]], K, fit=fit)  # type: ignore[arg-type]
    assert (tokens, tokens.view) == (seen, seen.view)  # type: ignore[union-attr]


def test_verify_encodes_as_the_manifest_says(engine: InProcessEngine, padded: Path) -> None:
    verified = verify(str(padded / "source"), str(padded / "tokens"), engine)
    assert (verified.images, verified.different, verified.missing) == (4, [], [])


def test_verify_takes_tokens_without_a_manifest_for_cropped_ones(
    engine: InProcessEngine, padded: Path, tmp_path: Path
) -> None:
    shutil.copy(padded / "tokens/all.parquet", tmp_path / "all.parquet")
    verified = verify(str(padded / "source"), str(tmp_path), engine)
    assert sorted(verified.different) == ["all/tall", "all/turned", "all/wide"]


def test_tokenize_refuses_another_fit_in_one_destination(
    engine: InProcessEngine, padded: Path
) -> None:
    source, tokens = str(padded / "source"), str(padded / "tokens")
    with pytest.raises(DestinationMismatch, match="fit 'pad', not 'crop'"):
        tokenize(source, tokens, [engine], k=K)
    assert tokenize(source, tokens, [engine], k=K, fit="pad").done_before == 1


def test_tokenize_refuses_an_unknown_fit(engine: InProcessEngine, tmp_path: Path) -> None:
    source = str(dataset_files.tar(tmp_path / "all.tar", IMAGES))
    with pytest.raises(InvalidInput, match="one of crop, pad"):
        tokenize(source, str(tmp_path / "t"), [engine], k=K, fit="stretch")  # type: ignore[arg-type]
    assert not (tmp_path / "t").exists()


def _as_an_older_release_wrote_it(tokens: Path, shard: str) -> None:
    """No fit in the manifest, no box in the shard."""
    manifest = tokens / ".channeltok/manifest.json"
    fields = json.loads(manifest.read_text())
    assert fields.pop("fit") == "crop"
    manifest.write_text(json.dumps(fields))
    path = tokens / f"{shard}.parquet"
    pq.write_table(pq.read_table(path).drop_columns(VIEW), path)


def test_tokens_of_the_first_format_are_decoded_and_not_continued(
    engine: InProcessEngine, padded: Path, tmp_path: Path
) -> None:
    shutil.copytree(padded, tmp_path / "old")
    manifest = tmp_path / "old/tokens/.channeltok/manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 1}))
    source, tokens = str(tmp_path / "old/source"), str(tmp_path / "old/tokens")
    with pytest.raises(DestinationMismatch, match="older release"):
        tokenize(source, tokens, [engine], k=K, fit="pad")
    assert detokenize(tokens, tmp_path / "photos", engine) == 4


def test_older_tokens_are_read_and_their_runs_go_on(
    engine: InProcessEngine, tmp_path: Path
) -> None:
    source, tokens = tmp_path / "source", tmp_path / "tokens"
    dataset_files.tar(source / "a.tar", IMAGES)
    tokenize(str(source), str(tokens), [engine], k=K)
    fresh = list(TokenDataset(str(tokens)).rows())
    _as_an_older_release_wrote_it(tokens, "a")
    older = list(TokenDataset(str(tokens)).rows())
    assert older == fresh
    assert {row.view for _, row in older} == {None}
    dataset_files.tar(source / "b.tar", [(f"b/{key}", image) for key, image in IMAGES])
    with pytest.raises(DestinationMismatch, match="fit 'crop', not 'pad'"):
        tokenize(str(source), str(tokens), [engine], k=K, fit="pad")
    summary = tokenize(str(source), str(tokens), [engine], k=K)
    assert (summary.done_before, summary.new_images) == (1, 4)
    views = [row.view for _, row in TokenDataset(str(tokens)).rows()]
    assert views[:4] == 4 * [None]
    assert views[4] == ImageView(300, 100, 100, 0, 200, 100)
    assert verify(str(source), str(tokens), engine).different == []
    assert detokenize(str(tokens), tmp_path / "photos", engine) == 8

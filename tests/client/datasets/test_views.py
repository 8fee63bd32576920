"""tokenize with views: seeded crops and flips, a row each."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from channeltok import ImageView, InvalidInput
from channeltok.datasets import DestinationMismatch, TokenDataset, tokenize, verify
from channeltok.local.random_views import MIN_AREA, RandomViews
from PIL import Image

import imaging
from service import in_process
from service.engine.in_process import InProcessEngine
from tests.support import dataset_files
from tests.support.photographs import encoded, photograph

SIZE = 128


def photo(width: int, height: int, kind: str = "PNG", orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(photograph("coffee")).resize((width, height))
    return encoded(image, kind, exif=exif)


IMAGES = {
    "wide.jpg": photo(300, 200, "JPEG"),
    "tall.png": photo(150, 320),
    "turned.jpg": photo(300, 200, "JPEG", 6),
    "small.webp": photo(40, 30, "WEBP"),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for name, content in IMAGES.items():
        (folder / name).write_bytes(content)
    (folder / "bad.jpg").write_bytes(b"no image")
    return folder


def rows_of(tokens: Path) -> dict[str, dict[str, Any]]:
    rows = [
        row for path in sorted(tokens.glob("*.parquet")) for row in pq.read_table(path).to_pylist()
    ]
    assert len({row["key"] for row in rows}) == len(rows)
    return {row["key"]: row for row in rows}


@pytest.mark.parametrize("name", IMAGES)
def test_a_view_is_its_part_of_the_image(name: str) -> None:
    """Compared with Pillow's pixels of the same box."""
    upright = np.asarray(imaging.decode(IMAGES[name])).astype(float)
    for view in RandomViews(7, SIZE).of(IMAGES[name], name, range(1, 9)):
        seen = view.seen
        assert (seen.width, seen.height) == upright.shape[1::-1]
        box = tuple(int(side) for side in (seen.left, seen.top, seen.right, seen.bottom))
        assert box == (seen.left, seen.top, seen.right, seen.bottom)
        assert 0 <= box[0] < box[2] <= seen.width
        assert 0 <= box[1] < box[3] <= seen.height
        part = Image.fromarray(upright.astype(np.uint8)).crop(box)
        expected = np.asarray(part.resize((SIZE, SIZE), Image.Resampling.BICUBIC)).astype(float)
        shown = view.pixels[:, ::-1] if view.flipped else view.pixels
        assert np.abs(shown - expected).mean() < 4


def test_views_are_squares_or_have_the_proportions_of_the_image() -> None:
    for seen in (view.seen for view in RandomViews(1, SIZE).of(IMAGES["wide.jpg"], "x", range(40))):
        assert seen.right - seen.left == seen.bottom - seen.top
        assert 0.98 * MIN_AREA * 200**2 <= (seen.right - seen.left) ** 2 <= 200**2
    views = RandomViews(1, SIZE, "pad").of(IMAGES["wide.jpg"], "x", range(40))
    for view in views:
        left, top, right, bottom = view.seen.left, view.seen.top, view.seen.right, view.seen.bottom
        assert (right - left) / (bottom - top) == pytest.approx(1.5, abs=0.02)
        assert view.pixels.shape == (SIZE, SIZE, 3)
    assert len({view.seen for view in views}) > 35
    assert 8 < sum(view.flipped for view in views) < 32


def test_views_follow_from_seed_key_and_number_alone() -> None:
    image = IMAGES["wide.jpg"]

    def view(seed: int, key: str, number: int) -> tuple[ImageView, bool, bytes]:
        (found,) = RandomViews(seed, SIZE).of(image, key, [number])
        return found.seen, found.flipped, found.pixels.tobytes()

    assert view(0, "a/b", 3) == view(0, "a/b", 3)
    assert RandomViews(0, SIZE).of(image, "a/b", range(1, 5))[2].seen == view(0, "a/b", 3)[0]
    others = [view(1, "a/b", 3), view(0, "a/c", 3), view(0, "a/b", 2)]
    assert len({view(0, "a/b", 3), *others}) == 4
    # The draw itself, so that no release changes the views of a seed.
    assert view(0, "a/b", 3)[:2] == (ImageView(300, 200, 141, 43, 272, 174), False)


def test_views_refuse_a_bad_image_as_the_service_does() -> None:
    with pytest.raises(InvalidInput) as caught:
        RandomViews(0, SIZE).of(b"no image", "x", [1])
    assert caught.value.code == "BAD_IMAGE"


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_tokenize_makes_a_row_of_each_view(
    engine: InProcessEngine, source: Path, tmp_path: Path, fit: Any
) -> None:
    summary = tokenize(str(source), str(tmp_path / "t"), [engine], k=16, fit=fit, views=3, seed=5)
    assert (summary.images, summary.rejects) == (3 * len(IMAGES), 1)
    rows = rows_of(tmp_path / "t")
    assert set(rows) == {f"{Path(name).stem}@{n}" for name in IMAGES for n in (1, 2, 3)}
    for name, content in IMAGES.items():
        stem = Path(name).stem
        views = RandomViews(5, SIZE, fit).of(content, stem, [1, 2, 3])
        encoded_views = engine.encode_stream([view.pixels for view in views], 16)
        for view, tokens in zip(views, encoded_views, strict=True):
            row = rows[f"{stem}@{view.number}"]
            assert row["tokens"] == tokens.ids.tolist()  # type: ignore[union-attr]
            assert (row["view"], row["flipped"]) == (view.number, view.flipped)
            assert ImageView(*(row[name] for name in vars(view.seen))) == view.seen
    assert TokenDataset(str(tmp_path / "t")).description["views"] == 3


def test_the_same_seed_gives_the_same_bytes(
    engine: InProcessEngine, source: Path, tmp_path: Path
) -> None:
    def run(name: str, seed: int) -> bytes:
        options = ["-k", "8", "--views", "2", "--seed", str(seed)]
        assert in_process.main(["tokenize", str(source), str(tmp_path / name), *options]) == 0
        (path,) = (tmp_path / name).glob("*.parquet")
        return path.read_bytes()

    first = run("a", 1)
    assert run("b", 1) == first
    assert run("c", 2) != first
    with pytest.raises(DestinationMismatch, match="views 2, not 3"):
        tokenize(str(source), str(tmp_path / "a"), [engine], k=8, views=3, seed=1)
    with pytest.raises(DestinationMismatch, match="seed 1, not 0"):
        tokenize(str(source), str(tmp_path / "a"), [engine], k=8, views=2)


def test_views_keep_what_came_with_the_image(engine: InProcessEngine, tmp_path: Path) -> None:
    tar = dataset_files.tar(tmp_path / "a.tar", [("x", IMAGES["wide.jpg"])], labels=True)
    tokenize(str(tar), str(tmp_path / "t"), [engine], k=8, views=2)
    rows = rows_of(tmp_path / "t")
    assert {row["label"] for row in rows.values()} == {"0"}
    assert len({row["offset"] for row in rows.values()}) == 1


def test_verify_makes_the_views_again(
    engine: InProcessEngine, source: Path, tmp_path: Path
) -> None:
    tokenize(str(source), str(tmp_path / "t"), [engine], k=8, fit="pad", views=2, seed=3)
    result = verify(str(source), str(tmp_path / "t"), engine)
    assert (result.images, result.different, result.missing) == (2 * len(IMAGES), [], [])
    manifest = tmp_path / "t/.channeltok/manifest.json"
    manifest.write_text(manifest.read_text().replace('"seed": 3', '"seed": 4'))
    assert len(verify(str(source), str(tmp_path / "t"), engine).different) > 4


def test_tokenize_refuses_a_negative_number_of_views(engine: InProcessEngine, source: Path) -> None:
    with pytest.raises(ValueError, match="views is 0 or more"):
        tokenize(str(source), "x", [engine], views=-1)

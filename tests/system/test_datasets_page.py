"""The commands and snippets of docs/datasets.md, on a real service."""

import io
import json
import tarfile
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest

from tests.support import dataset_files
from tests.support.page_commands import (
    blocks,
    commands,
    link_folders,
    run_command,
    run_snippet,
    sections,
)
from tests.support.photographs import crops
from tests.support.running import ROOT, Service

TEXT = (ROOT / "docs/datasets.md").read_text()
SECTIONS = sections(TEXT)
BEFORE = TEXT[: TEXT.index("\n## ")]
IMAGES = 12
CAPTIONS = [f'a photo, number {i}: "naïve" 猫\tand a tab' for i in range(IMAGES)]
SPECIES = ["cat", "dog"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sources as the page names them."""
    folder = tmp_path_factory.mktemp("datasets-page")
    link_folders(folder, ["docs", "model_repository"])
    images = crops(IMAGES)
    named = [(f"{SPECIES[i % 2]}/{i:03d}", image) for i, image in enumerate(images)]
    for name in ("photos", "train", "val"):
        dataset_files.folder(folder / name, named)
    for shard in range(2):
        dataset_files.tar(folder / f"shards/train-00{shard}.tar", named[shard::2], labels=True)
    _captioned(folder / "captioned/00000.tar", images)
    _hugging_face(folder / "parquet", images)
    return folder


def _captioned(path: Path, images: list[bytes]) -> None:
    """A tar as img2dataset writes it."""
    path.parent.mkdir()
    with tarfile.open(path, "w") as tar:
        for i, (image, caption) in enumerate(zip(images, CAPTIONS, strict=True)):
            about = {"caption": caption, "url": f"https://example.org/{i}.jpg", "status": "success"}
            for suffix, content in (
                ("jpg", image),
                ("txt", caption.encode()),
                ("json", json.dumps(about).encode()),
            ):
                member = tarfile.TarInfo(f"{i:09d}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def _hugging_face(path: Path, images: list[bytes]) -> None:
    """A file of `datasets`' own `to_parquet`, with names of one's own."""
    path.mkdir()
    rows = {
        "photo": [{"bytes": image, "path": None} for image in images],
        "species": [i % 2 for i in range(IMAGES)],
        "id": [f"id-{i}" for i in range(IMAGES)],
    }
    features = datasets.Features(
        photo=datasets.Image(),
        species=datasets.ClassLabel(names=SPECIES),
        id=datasets.Value("string"),
    )
    datasets.Dataset.from_dict(rows, features).to_parquet(str(path / "data.parquet"))


def test_datasets_page_runs_from_top_to_bottom(service: Service, folder: Path) -> None:
    for text in (BEFORE, *SECTIONS.values()):
        for command in commands(text):
            run_command(command.replace("--seconds 40", "--seconds 1"), folder, service)
        for snippet in blocks(text, "python"):
            run_snippet(snippet, folder, service)
    by_service = pq.read_table(folder / "served", partitioning=None)
    in_process = pq.read_table(folder / "tokens", partitioning=None)
    assert by_service.equals(in_process)
    assert pq.read_table(folder / "with-captions")["caption"].to_pylist() == CAPTIONS
    labelled = pq.read_table(folder / "with-labels")
    assert set(
        zip(*(labelled[name].to_pylist() for name in ("label", "label_id")), strict=True)
    ) == {
        ("cat", 0),
        ("dog", 1),
    }
    assert len(list((folder / "decoded").rglob("*.jpg"))) == IMAGES
    assert (folder / "for-the-hub/README.md").exists()


def test_datasets_page_answers_five_questions() -> None:
    assert list(SECTIONS) == [
        "From where",
        "To where",
        "How sure",
        "How fast",
        "How do I train on it",
    ]

"""A dataset encoded through a running service equals one encoded in this process."""

import io
import sys
from pathlib import Path

import channeltok
import pytest
from channeltok import Client, cli
from channeltok.datasets import detokenize, tokenize
from channeltok.fit import Fit
from PIL import Image

import imaging
from service import in_process
from service.engine.in_process import InProcessEngine
from service.settings import EngineSettings
from tests.support import dataset_files
from tests.support.photographs import crops
from tests.support.running import Service

ROOT = Path(__file__).parents[2]


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.parquet")}


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_datasets_by_service_and_in_process_are_equal(
    service: Service, tmp_path: Path, fit: Fit
) -> None:
    images = [(f"photo-{number:03d}", image) for number, image in enumerate(crops(100))]
    for shard in range(3):
        dataset_files.tar(tmp_path / f"source/{shard}.tar", images[shard::3])
    engine = InProcessEngine(EngineSettings(model_repository=ROOT / "model_repository"))
    with Client(service.grpc) as one, Client(service.grpc) as other:
        served = tokenize(
            str(tmp_path / "source"), str(tmp_path / "served"), [one, other], k=64, fit=fit
        )
        detokenize(str(tmp_path / "served"), tmp_path / "photos", one, format="png")
    local = tokenize(str(tmp_path / "source"), str(tmp_path / "local"), [engine], k=64, fit=fit)
    engine.close()
    assert served.images == local.images == 100
    assert content(tmp_path / "served") == content(tmp_path / "local")
    for key, image in images:
        original, decoded = (
            imaging.open_image(image),
            tmp_path / f"photos/{int(key[-3:]) % 3}/{key}.png",
        )
        width, height = Image.open(io.BytesIO(decoded.read_bytes())).size
        shape = original.height / original.width if fit == "pad" else 1
        assert abs(height - width * shape) <= max(1, shape)


def test_views_by_service_and_in_process_are_equal(service: Service, tmp_path: Path) -> None:
    images = [(f"photo-{number:03d}", image) for number, image in enumerate(crops(10))]
    source = str(dataset_files.tar(tmp_path / "source/a.tar", images))
    options = ["-k", "64", "--views", "3", "--seed", "7"]
    served, local = str(tmp_path / "served"), str(tmp_path / "local")
    assert cli.main(["tokenize", source, served, *options, "--server", service.grpc]) == 0
    assert in_process.main(["tokenize", source, local, *options]) == 0
    assert content(tmp_path / "served") == content(tmp_path / "local")
    assert in_process.main(["verify", source, served, "--sample", "30"]) == 0
    assert cli.main(["verify", source, served, "--server", service.grpc]) == 0


def test_the_command(service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = dataset_files.folder(
        tmp_path / "photos", [(f"{n}", image) for n, image in enumerate(crops(5))]
    )
    (source / "bad.jpg").write_bytes(b"no image")
    command = [
        "tokenize",
        str(source),
        str(tmp_path / "tokens"),
        "-k",
        "8",
        "--server",
        f"{service.grpc},{service.grpc}",
    ]
    assert cli.main(command) == 0
    printed = capsys.readouterr()
    assert "5 images, 8 tokens each by demo" in printed.out
    assert "1 rejects in .channeltok/rejects.jsonl" in printed.out
    assert "images-00000: 5 images, 1 rejects" in printed.err
    assert cli.main(command) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert cli.main([*command, "--max-rejects", "0"]) == 1
    assert "1 images were rejected, and 0 are allowed" in capsys.readouterr().err
    assert cli.main([*command[:3], "-k", "9", "--server", service.grpc]) == 1
    assert "k 8, not 9" in capsys.readouterr().err


def test_the_command_without_its_packages(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("channeltok.datasets")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(channeltok, "datasets", raising=False)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert cli.main(["tokenize", "a", "b"]) == 1
    assert "pip install 'channeltok[batch]'" in capsys.readouterr().err

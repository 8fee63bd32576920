"""`python -m export tokenizer`: from a checkpoint file to a repository, and its error messages."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import imaging
from export.__main__ import main
from export.graphs import parity
from export.graphs.random_model import random_of
from export.triton import repository
from tokenizer import checkpoint
from tokenizer.models.channeltok import ChannelTok, NarrowDecoder, PaperShape, ShuffleShape

pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # webdataset leaves its tar files open


@pytest.fixture
def shard(tmp_path: Path, photos: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    with tarfile.open("photos.tar", "w") as tar:
        for i, photo in enumerate(photos[:3]):
            data = imaging.encode_image(photo, "PNG")
            member = tarfile.TarInfo(f"{i}.png")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return "photos.tar"


def test_tokenizer_command_writes_a_repository(
    shard: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = random_of(
        PaperShape(image_size=8, channels=32, encoder_widths=(32, 32), decoder_widths=(32, 32))
    )
    checkpoint.save(model, Path("weights.safetensors"))
    options = ["--name", "mine", "--budgets", "16", "--report", "build/parity.json"]
    main(["tokenizer", "weights.safetensors", "--data", shard, *options])
    assert sorted(path.name for path in Path("model_repository").iterdir()) == [
        "mine_decode_k16",
        "mine_encode",
    ]
    assert json.loads(Path("build/parity.json").read_text())["photos"] == 3
    out, err = capsys.readouterr()
    assert checkpoint.fingerprint(model) in out
    assert "token bits that differ" in out
    assert err == ""


def test_tokenizer_command_writes_a_graph_for_each_narrow_decoder(shard: str) -> None:
    shape = ShuffleShape(
        channels=32,
        widths=(32, 32, 32, 64),
        narrow_decoders=(NarrowDecoder(budget=8, widths=(32, 32, 32, 32)),),
    )
    checkpoint.save(random_of(shape), Path("weights.safetensors"))
    main(["tokenizer", "weights.safetensors", "--name", "mine", "--data", shard])
    costs = {
        path.parent.name: repository.parse(path.read_text()).parameters["relative_cost"]
        for path in sorted(Path("model_repository").glob("*/config.pbtxt"))
    }
    assert list(costs) == ["mine_decode_k32", "mine_decode_k8", "mine_encode"]
    assert costs["mine_decode_k32"].string_value == costs["mine_encode"].string_value == ""
    assert 0.5 < float(costs["mine_decode_k8"].string_value) < 1


def test_tokenizer_command_writes_no_graphs_that_disagree(
    model: ChannelTok, shard: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save(model, Path("weights.safetensors"))
    monkeypatch.setattr(
        "export.commands.tokenizer.graph.encode_graph",
        lambda *_: type("Graph", (), {"SerializeToString": lambda _: b""})(),
    )
    monkeypatch.setattr(
        "export.commands.tokenizer.graph.decode_graph",
        lambda *_: type("Graph", (), {"SerializeToString": lambda _: b""})(),
    )
    monkeypatch.setattr(parity, "measure", lambda *_: parity.Parity(3, 1000, 500, ()))
    with pytest.raises(SystemExit, match="500 of 1,000 token bits differ"):
        main(["tokenizer", "weights.safetensors", "--data", shard])
    assert not Path("model_repository").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["gone.safetensors"], "cannot read the checkpoint gone.safetensors: No such file"),
        (["photos.tar"], "photos.tar is not a tokenizer checkpoint"),
        (
            ["--random", "demo", "--budgets", "300"],
            r"between 1 and the 256 channels of this tokenizer, not \[300\]",
        ),
        (["--random", "demo", "--name", "../up"], "cannot name a tokenizer"),
        (
            ["--random", "flextok", "--int8"],
            "--int8 needs convolutions, and the decoder of FlexTok has none",
        ),
        (
            ["--random", "demo", "--repository", "photos.tar/models"],
            "cannot write photos.tar/models",
        ),
        (["--random", "demo", "--data", "nowhere"], "no tar files at 'nowhere'"),
    ],
)
def test_tokenizer_command_answers_mistakes_in_one_sentence(
    shard: str, arguments: list[str], sentence: str
) -> None:
    with pytest.raises(SystemExit, match=sentence) as stopped:
        main(["tokenizer", "--data", shard, *arguments])
    assert "\n" not in str(stopped.value)


def test_tokenizer_command_takes_either_a_checkpoint_or_a_random_size(
    shard: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in ([], ["weights.safetensors", "--random", "demo"]):
        with pytest.raises(SystemExit):
            main(["tokenizer", "--data", shard, *arguments])
    assert "not allowed with argument" in capsys.readouterr().err

"""Splitting a checkpoint into parts, and joining them."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from tokenizer import checkpoint, parts
from tokenizer.models.channeltok import ChannelTok, ShuffleShape


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "weights.safetensors"
    checkpoint.save(
        ChannelTok(ShuffleShape(channels=32, widths=(32, 32, 32, 32))), path, {"views": "7"}
    )
    return path


def test_split_parts_are_small_and_join_to_the_same_checkpoint(whole: Path, tmp_path: Path) -> None:
    found = parts.split(whole, whole.parent, 0.25)
    assert len(found) > 2
    assert [path.name for path in found] == [
        f"weights-{n}-of-{len(found)}.safetensors" for n in range(1, len(found) + 1)
    ]
    assert all(path.stat().st_size <= 0.25 * parts.MIB for path in found)
    parts.join(found[::-1], tmp_path / "again/joined.safetensors")
    joined = tmp_path / "again/joined.safetensors"
    assert checkpoint.fingerprint(checkpoint.load(joined)) == checkpoint.fingerprint(
        checkpoint.load(whole)
    )
    assert checkpoint.facts(joined) == checkpoint.facts(whole)


def test_split_parts_are_files_with_all_metadata(whole: Path) -> None:
    for path in parts.split(whole, whole.parent, 0.25):
        with safe_open(path, framework="pt") as file:
            assert file.metadata()["views"] == "7"
            assert "shape" in file.metadata()
            assert len(file.keys()) > 0


def test_join_refuses_missing_and_duplicate_parts(whole: Path, tmp_path: Path) -> None:
    first, _, *others = parts.split(whole, whole.parent, 0.25)
    with pytest.raises(
        ValueError, match=r"a checkpoint has \d parts, each needed once; got parts \[1, 3"
    ):
        parts.join([first, *others], tmp_path / "joined.safetensors")
    with pytest.raises(ValueError, match=r"got parts \[1, 1"):
        parts.join([first, first, *others], tmp_path / "joined.safetensors")


def test_join_refuses_parts_of_two_checkpoints(whole: Path, tmp_path: Path) -> None:
    first, *_ = parts.split(whole, whole.parent, 0.25)
    other = tmp_path / "other/weights.safetensors"
    checkpoint.save(
        ChannelTok(ShuffleShape(channels=32, widths=(32, 32, 32, 32))), other, {"views": "8"}
    )
    _, *others = parts.split(other, other.parent, 0.25)
    with pytest.raises(ValueError, match="is a part of another checkpoint"):
        parts.join([first, *others], tmp_path / "joined.safetensors")
    with pytest.raises(ValueError, match="is no part of a checkpoint"):
        parts.join([whole], tmp_path / "joined.safetensors")


def test_split_refuses_a_tensor_larger_than_a_part(whole: Path) -> None:
    with pytest.raises(ValueError, match=r"MiB; a part has at most 0.0"):
        parts.split(whole, whole.parent, 0.01)


def test_parts_command_splits_and_joins(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts.main(["split", str(whole), "--output", str(tmp_path / "parts"), "--mib", "0.25"])
    written = capsys.readouterr().out.split()
    parts.main(["join", *written, "--output", str(tmp_path / "joined.safetensors")])
    assert (tmp_path / "joined.safetensors").exists()
    with pytest.raises(SystemExit, match="got parts"):
        parts.main(["join", written[0], "--output", str(tmp_path / "joined.safetensors")])

"""detokenize: token shards back to image files."""

import io
import shutil
from pathlib import Path

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from channeltok import InvalidInput, UnknownTokenizer
from channeltok.datasets import DestinationError, SourceError, TokenDataset, detokenize
from PIL import Image

from service import in_process
from service.engine.in_process import InProcessEngine
from tests.client.datasets.conftest import KEYS, K


@pytest.mark.parametrize("k", [K, 8])
def test_detokenize_writes_the_decoded_images(
    engine: InProcessEngine, tokenized: Path, tmp_path: Path, k: int
) -> None:
    assert (
        detokenize(str(tokenized / "tokens"), tmp_path / "photos", engine, k=k, format="png") == 30
    )
    files = sorted((tmp_path / "photos").rglob("*.png"))
    assert {str(file.relative_to(tmp_path / "photos")) for file in files} == {
        f"{key}.png" for key in KEYS
    }
    dataset = dict(TokenDataset(str(tokenized / "tokens"), k).rows())
    (right,) = engine.decode_stream([dataset[KEYS[0]]])
    assert isinstance(right, bytes)
    mine = np.asarray(Image.open(tmp_path / f"photos/{KEYS[0]}.png"))
    assert np.array_equal(mine, np.asarray(Image.open(io.BytesIO(right))))


def _with_keys(tokens: Path, destination: Path, keys: dict[int, str]) -> str:
    """A copy of the token shards, where rows of train-0 have other keys."""
    shutil.copytree(tokens, destination)
    path = destination / "train-0.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    for number, key in keys.items():
        rows[number]["key"] = key
    pq.write_table(type(table).from_pylist(rows, table.schema), path)
    return str(destination)


def test_detokenize_writes_a_file_in_the_folder_for_any_key(
    engine: InProcessEngine, tokenized: Path, tmp_path: Path
) -> None:
    keys = ["../../etc/passwd", "/absolute", "two//slashes", "ä" * 300, "ä" * 300 + "b", "a\0b", ""]
    tokens = _with_keys(tokenized / "tokens", tmp_path / "tokens", dict(enumerate(keys)))
    (tmp_path / "out").mkdir()
    assert detokenize(tokens, tmp_path / "out/photos", engine) == 30
    files = {str(path.relative_to(tmp_path / "out")) for path in tmp_path.glob("out/**/*.jpg")}
    assert len(files) == 30
    assert {
        "photos/%2E%2E/%2E%2E/etc/passwd.jpg",
        "photos/%/absolute.jpg",
        "photos/two/%/slashes.jpg",
        "photos/a%00b.jpg",
        "photos/%.jpg",
    } <= files


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({1: "x", 2: "x"}, r"x\.jpg would be the file of two rows"),
        ({1: KEYS[25]}, "photo-25.jpg would be the file of two rows, in .*train-0.*train-2"),
        ({1: "x", 2: "x.jpg/y"}, r"x\.jpg of .* would be a file, and for .* a folder"),
    ],
)
def test_detokenize_writes_nothing_where_two_rows_would_have_one_file(
    engine: InProcessEngine, tokenized: Path, tmp_path: Path, keys: dict[int, str], message: str
) -> None:
    tokens = _with_keys(tokenized / "tokens", tmp_path / "tokens", keys)
    with pytest.raises(SourceError, match=message):
        detokenize(tokens, tmp_path / "photos", engine)
    assert not (tmp_path / "photos").exists()


def test_detokenize_writes_to_any_file_system(engine: InProcessEngine, tokenized: Path) -> None:
    fs = fsspec.filesystem("memory")
    assert detokenize(str(tokenized / "tokens"), "memory://photos", engine, format="png") == 30
    files = fs.find("/photos")
    assert len(files) == 30
    assert Image.open(io.BytesIO(fs.cat_file(files[0]))).format == "PNG"
    fs.rm("/photos", recursive=True)


def test_detokenize_names_a_file_that_cannot_be_written(
    engine: InProcessEngine, tokenized: Path, tmp_path: Path
) -> None:
    (tmp_path / "photos").write_text("a file")
    with pytest.raises(DestinationError, match=r"photos/.* cannot be written"):
        detokenize(str(tokenized / "tokens"), tmp_path / "photos", engine)


def test_engine_refuses_bad_token_bytes_alone(engine: InProcessEngine, tokenized: Path) -> None:
    tokens = dict(TokenDataset(str(tokenized / "tokens")).rows())[KEYS[0]]
    image, error, again = engine.decode_stream([tokens, b"no tokens", tokens.to_bytes()])
    assert isinstance(error, InvalidInput)
    assert (error.code, image) == ("BAD_TOKENS", again)


def test_engine_refuses_an_unknown_tokenizer_as_the_service_does(
    engine: InProcessEngine, tokenized: Path
) -> None:
    _, tokens = next(TokenDataset(str(tokenized / "tokens")).rows())
    (error,) = engine.decode_stream([tokens], tokenizer="nobody")
    assert isinstance(error, UnknownTokenizer)
    assert error.code == "UNKNOWN_TOKENIZER"


def test_in_process_commands_report_results_and_failures(
    tokenized: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, tokens = str(tokenized / "source"), str(tokenized / "tokens")
    assert in_process.main(["detokenize", tokens, str(tmp_path / "photos"), "-k", "32"]) == 0
    assert "30 images" in capsys.readouterr().out
    assert in_process.main(["verify", source, tokens, "--sample", "9"]) == 0
    assert "9 images tokenized again, 0 differ, 0 missing" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    assert in_process.main(["verify", str(tmp_path / "empty"), tokens]) == 1
    assert "nothing is there" in capsys.readouterr().err
    nowhere = str(tmp_path / "nowhere")
    assert in_process.main(["tokenize", "a", "b", "--model-repository", nowhere]) == 1
    assert "holds no tokenizer" in capsys.readouterr().err

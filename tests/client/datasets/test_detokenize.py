"""detokenize: token shards back to image files."""

import io
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from channeltok import InvalidInput, UnknownTokenizer
from channeltok.datasets import SourceError, TokenDataset, detokenize
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


def test_detokenize_refuses_a_key_that_points_outside_the_folder(
    engine: InProcessEngine, tokenized: Path, tmp_path: Path
) -> None:
    shutil.copytree(tokenized / "tokens", tmp_path / "tokens")
    path = tmp_path / "tokens/train-0.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[3]["key"] = "../../etc/passwd"
    pq.write_table(type(table).from_pylist(rows, table.schema), path)
    with pytest.raises(SourceError, match="points outside"):
        detokenize(str(tmp_path / "tokens"), tmp_path / "photos", engine)


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

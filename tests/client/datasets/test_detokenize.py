"""Tokens of a dataset back to images, compared with their source, and in batches for training."""

import io
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from channeltok import ChannelTokError, InvalidInput, Tokens
from channeltok.datasets import SourceError, TokenDataset, detokenize, tokenize, verify
from PIL import Image

from service import in_process
from service.engine.in_process import InProcessEngine
from tests.support import dataset_files
from tests.support.photographs import crops

K = 64
KEYS = [f"{'abc'[number % 3]}/photo-{number:02d}" for number in range(30)]


@pytest.fixture(scope="module")
def made(engine: InProcessEngine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    images = list(zip(KEYS, crops(30), strict=True))
    for shard in range(3):
        dataset_files.tar(
            folder / f"source/train-{shard}.tar", images[shard * 10 : shard * 10 + 10]
        )
    tokenize(str(folder / "source"), str(folder / "tokens"), [engine], k=K)
    return folder


@pytest.mark.parametrize("k", [K, 8])
def test_images_come_back(engine: InProcessEngine, made: Path, tmp_path: Path, k: int) -> None:
    assert detokenize(str(made / "tokens"), tmp_path / "photos", engine, k=k, format="png") == 30
    files = sorted((tmp_path / "photos").rglob("*.png"))
    assert {str(file.relative_to(tmp_path / "photos")) for file in files} == {
        f"{key}.png" for key in KEYS
    }
    dataset = dict(TokenDataset(str(made / "tokens"), k).rows())
    (right,) = engine.decode_stream([dataset[KEYS[0]]])
    assert isinstance(right, bytes)
    mine = np.asarray(Image.open(tmp_path / f"photos/{KEYS[0]}.png"))
    assert np.array_equal(mine, np.asarray(Image.open(io.BytesIO(right))))


def test_a_key_cannot_lead_out_of_the_folder(
    engine: InProcessEngine, made: Path, tmp_path: Path
) -> None:
    shutil.copytree(made / "tokens", tmp_path / "tokens")
    path = tmp_path / "tokens/train-0.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[3]["key"] = "../../etc/passwd"
    pq.write_table(type(table).from_pylist(rows, table.schema), path)
    with pytest.raises(SourceError, match="points outside"):
        detokenize(str(tmp_path / "tokens"), tmp_path / "photos", engine)


def test_what_was_not_touched_is_the_same(engine: InProcessEngine, made: Path) -> None:
    verified = verify(str(made / "source"), str(made / "tokens"), engine, sample=20)
    assert (verified.images, verified.different, verified.missing) == (20, [], [])


def test_another_image_and_a_lost_shard_are_found(
    engine: InProcessEngine, made: Path, tmp_path: Path
) -> None:
    shutil.copytree(made / "source", tmp_path / "source")
    dataset_files.tar(
        tmp_path / "source/train-1.tar", zip(KEYS[10:20], crops(10, seed=9), strict=True)
    )
    (tmp_path / "source/train-2.tar").unlink()
    verified = verify(str(tmp_path / "source"), str(made / "tokens"), engine, sample=30)
    assert sorted(verified.different) == sorted(KEYS[10:20])
    assert sorted(verified.missing) == sorted(KEYS[20:])


def test_an_image_that_cannot_be_read_any_more_is_another(
    engine: InProcessEngine, made: Path, tmp_path: Path
) -> None:
    shutil.copytree(made / "source", tmp_path / "source")
    images = crops(10, seed=9)
    dataset_files.tar(
        tmp_path / "source/train-1.tar",
        [(KEYS[10], b"no image"), *zip(KEYS[11:20], images[1:], strict=True)],
    )
    verified = verify(str(tmp_path / "source"), str(made / "tokens"), engine, sample=30)
    assert (sorted(verified.different), verified.missing) == (sorted(KEYS[10:20]), [])


def test_bad_token_bytes_are_refused_alone(engine: InProcessEngine, made: Path) -> None:
    tokens = dict(TokenDataset(str(made / "tokens")).rows())[KEYS[0]]
    image, error, again = engine.decode_stream([tokens, b"no tokens", tokens.to_bytes()])
    assert isinstance(error, InvalidInput)
    assert (error.code, image) == ("BAD_TOKENS", again)


def test_another_training_is_said_to_be_one(
    engine: InProcessEngine, made: Path, tmp_path: Path
) -> None:
    shutil.copytree(made / "tokens", tmp_path / "tokens")
    for path in (tmp_path / "tokens").glob("*.parquet"):
        table = pq.read_table(path)
        rows = [{**row, "fingerprint": "0123456789abcdef"} for row in table.to_pylist()]
        pq.write_table(type(table).from_pylist(rows, table.schema), path)
    for work in (
        lambda: verify(str(made / "source"), str(tmp_path / "tokens"), engine),
        lambda: detokenize(str(tmp_path / "tokens"), tmp_path / "p", engine),
    ):
        with pytest.raises(ChannelTokError, match="0123456789abcdef"):
            work()


def test_batches_are_prefixes_in_order(made: Path) -> None:
    dataset = TokenDataset(str(made / "tokens"), k=16)
    assert (len(dataset), dataset.k, dataset.classes) == (30, 16, ["a", "b", "c"])
    batches = list(dataset.batches(8))
    assert [len(batch.tokens) for batch in batches] == [8, 8, 8, 6]
    tokens = np.concatenate([batch.tokens for batch in batches])
    labels = np.concatenate([batch.labels for batch in batches])
    whole = [tokens.ids for _, tokens in TokenDataset(str(made / "tokens")).rows()]
    assert tokens.dtype == labels.dtype == np.int64
    assert np.array_equal(tokens, np.stack(whole)[:, :16])
    assert labels.tolist() == ["abc".index(key[0]) for key in KEYS]


def test_a_seed_mixes_and_loses_nothing(made: Path) -> None:
    dataset = TokenDataset(str(made / "tokens"))

    def rows(seed: int | None) -> list[bytes]:
        return [row.tobytes() for batch in dataset.batches(7, seed=seed) for row in batch.tokens]

    assert rows(1) == rows(1)
    assert rows(1) != rows(2) != rows(None)
    assert sorted(rows(1)) == sorted(rows(None))


def test_parts_share_the_rows_out(made: Path) -> None:
    dataset = TokenDataset(str(made / "tokens"))
    parts = [
        [row.tobytes() for batch in dataset.batches(4, seed=5, part=(i, 3)) for row in batch.tokens]
        for i in range(3)
    ]
    assert [len(part) for part in parts] == [12, 9, 9]
    assert max(Counter(row for part in parts for row in part).values()) == 1


def test_torch_takes_them(made: Path) -> None:
    import torch

    dataset = TokenDataset(str(made / "tokens"), k=8)
    batch = next(dataset.batches(4))
    assert torch.from_numpy(batch.tokens).shape == (4, 8)


@pytest.mark.parametrize("k", [0, -1, 65])
def test_a_k_that_the_tokens_do_not_have(made: Path, k: int) -> None:
    with pytest.raises(ValueError, match="1 to 64"):
        TokenDataset(str(made / "tokens"), k)


def test_no_tokens(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no token shards"):
        TokenDataset(str(tmp_path))


def test_the_commands(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, tokens = str(made / "source"), str(made / "tokens")
    assert in_process.main(["detokenize", tokens, str(tmp_path / "photos"), "-k", "32"]) == 0
    assert "30 images" in capsys.readouterr().out
    assert in_process.main(["verify", source, tokens, "--sample", "9"]) == 0
    assert "9 images tokenized again, 0 differ, 0 missing" in capsys.readouterr().out
    (made / "empty").mkdir()
    assert in_process.main(["verify", str(made / "empty"), tokens]) == 1
    assert "nothing is there" in capsys.readouterr().err
    nowhere = str(tmp_path / "nowhere")
    assert in_process.main(["tokenize", "a", "b", "--model-repository", nowhere]) == 1
    assert "holds no tokenizer" in capsys.readouterr().err


def test_tokens_of_one_row_are_whole(made: Path) -> None:
    key, tokens = next(TokenDataset(str(made / "tokens")).rows())
    assert key == KEYS[0]
    assert isinstance(tokens, Tokens)
    assert tokens.k == K

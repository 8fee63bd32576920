"""Token Parquet read by pyarrow, pandas, Hugging Face datasets, DuckDB and the example."""

import re
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow.dataset as ds
import pytest
from channeltok.datasets import tokenize

from service.engine.in_process import InProcessEngine
from tests.support import dataset_files
from tests.support.photographs import crops

K = 48
MEMBERS = [f"class/photo-{number:02d}" for number in range(12)]
KEYS = [f"train-{number // 6}/{member}" for number, member in enumerate(MEMBERS)]


@pytest.fixture(scope="module")
def tokens(engine: InProcessEngine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    images = list(zip(MEMBERS, crops(12), strict=True))
    for number in range(2):
        dataset_files.tar(
            folder / f"source/train-{number}.tar",
            images[number * 6 : number * 6 + 6],
            labels=True,
        )
    tokenize(str(folder / "source"), str(folder / "tokens"), [engine], k=K)
    return folder / "tokens"


def test_pyarrow_reads_token_parquet(tokens: Path) -> None:
    table = ds.dataset(tokens, format="parquet").to_table()
    assert table.column("key").to_pylist() == KEYS
    assert str(table.schema.field("tokens").type) == f"fixed_size_list<element: uint16>[{K}]"


def test_pandas_reads_token_parquet(tokens: Path) -> None:
    frame = pd.read_parquet(tokens)
    assert frame["key"].tolist() == KEYS
    ids = np.stack(frame["tokens"])
    assert ids.shape == (12, K)
    assert ids.dtype == np.uint16


def test_hugging_face_datasets_reads_token_parquet(tokens: Path, tmp_path: Path) -> None:
    import datasets

    loaded = datasets.load_dataset(str(tokens), split="train", cache_dir=str(tmp_path))
    assert loaded["key"][:] == KEYS
    assert np.asarray(loaded.with_format("numpy")["tokens"][:]).shape == (12, K)


def test_duckdb_reads_token_parquet(tokens: Path) -> None:
    rows = duckdb.sql(
        f"select key, len(tokens), tokens[1] from '{tokens}/*.parquet' order by key"
    ).fetchall()
    assert [row[0] for row in rows] == KEYS
    assert {row[1] for row in rows} == {K}


def test_example_learns_from_tokens(tokens: Path) -> None:
    """On its training set; docs/datasets.md reports a run on real datasets."""
    script = [sys.executable, "docs/examples/train_on_tokens.py"]
    command = [*script, str(tokens), str(tokens), "-k", "8", "--seconds", "5"]
    output = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    right, largest = (float(share) for share in re.findall(r"([\d.]+)%", output))
    assert right > largest + 20, output

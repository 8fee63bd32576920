"""The committed demo tokenizer in this process, and a small tokenized dataset."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from channeltok.datasets import tokenize

from service.engine.in_process import InProcessEngine
from service.settings import EngineSettings
from tests.support import dataset_files
from tests.support.photographs import crops
from tests.support.running import ROOT

K = 64
MEMBERS = [f"{'abc'[number % 3]}/photo-{number:02d}" for number in range(30)]
KEYS = [f"train-{number // 10}/{member}" for number, member in enumerate(MEMBERS)]


@pytest.fixture(scope="session")
def engine() -> Iterator[InProcessEngine]:
    engine = InProcessEngine(EngineSettings(model_repository=ROOT / "model_repository"))
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def tokenized(engine: InProcessEngine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `source`, three tars of ten images, and `tokens`, made of them."""
    folder = tmp_path_factory.mktemp("tokenized")
    images = list(zip(MEMBERS, crops(30), strict=True))
    for shard in range(3):
        dataset_files.tar(
            folder / f"source/train-{shard}.tar", images[shard * 10 : shard * 10 + 10]
        )
    tokenize(str(folder / "source"), str(folder / "tokens"), [engine], k=K)
    return folder

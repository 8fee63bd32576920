"""The real engine of the committed demo tokenizer, in this process."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from service.engine.in_process import LocalEngine

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def engine() -> Iterator[LocalEngine]:
    engine = LocalEngine(ROOT / "model_repository")
    yield engine
    engine.close()

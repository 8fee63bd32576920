"""The real engine of the committed demo tokenizer, in this process."""

from collections.abc import Iterator

import pytest

from service.engine.in_process import InProcessEngine
from service.settings import EngineSettings
from tests.support.running import ROOT


@pytest.fixture(scope="session")
def engine() -> Iterator[InProcessEngine]:
    engine = InProcessEngine(EngineSettings(model_repository=ROOT / "model_repository"))
    yield engine
    engine.close()

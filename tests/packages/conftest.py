"""The wheel, and pip."""

from pathlib import Path

import pytest

from tests.packages import environments


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return environments.build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def pip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return environments.download_pip(tmp_path_factory.mktemp("pip"))

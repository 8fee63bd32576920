from pathlib import Path

import pytest

from service.errors import CannotStart
from service.observability import metrics_folder


def test_prepare_makes_the_folder_and_removes_what_an_earlier_service_left(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "there"
    for _ in range(2):
        environment = metrics_folder.prepare(str(folder), 2)
        assert environment[metrics_folder.FOLDER] == str(folder)
        assert list(folder.iterdir()) == []
        for file in ("gauge_livesum_1.0.db", "counter_parent.0.db", "1.pid"):
            (folder / file).touch()


def test_prepare_says_why_a_folder_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CannotStart, match=metrics_folder.FOLDER):
        metrics_folder.prepare(str(tmp_path / "file" / "folder"), 2)

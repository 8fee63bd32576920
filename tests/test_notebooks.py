"""The notebooks of docs/notebooks run from first cell to last, and were committed with output."""

import shutil
from pathlib import Path

import nbformat
import pytest

from tests.support.notebooks import NOTEBOOKS, execute, images, outputs
from tests.support.running import ROOT

MAX_BYTES = 200_000


@pytest.mark.filterwarnings("ignore")  # of Jupyter's packages
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    folder = tmp_path / "docs/notebooks"
    shutil.copytree(path.parent, folder)
    (tmp_path / "docs/images").symlink_to(ROOT / "docs/images")
    executed = execute(folder / path.name)
    committed = nbformat.read(path, as_version=4)
    assert len(images(executed)) == len(images(committed)) >= 3


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_committed_with_its_output(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [output for _, output in outputs(notebook) if output.output_type == "error"]
    assert path.stat().st_size <= MAX_BYTES


def test_notebooks_lead_to_each_other() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["quickstart", "train_on_tokens"]
    assert "(train_on_tokens.ipynb)" in NOTEBOOKS[0].read_text()

"""Execute the notebooks of docs/notebooks. `python -m tests.support.notebooks` writes their output.

Of an image that has both forms the JPEG is kept, a tenth of the PNG.
"""

import os
import warnings
from pathlib import Path

import nbformat

from tests.support.running import ROOT

NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))
PYTHONPATH = f"{ROOT / 'client'}:{ROOT}"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def execute(path: Path) -> nbformat.NotebookNode:
    """Run a notebook in its folder, from the first cell to the last.

    Returns it with its output. Raises CellExecutionError for a cell that fails.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Jupyter's packages
        from nbclient import NotebookClient

        notebook = nbformat.read(path, as_version=4)
        client = NotebookClient(
            notebook, timeout=180, startup_timeout=120, kernel_name="python3", record_timing=False
        )
        # Threads of PyTorch that wait for each other crawl where other tests share the cores.
        environment = {**os.environ, "PYTHONPATH": PYTHONPATH, "OMP_NUM_THREADS": "1"}
        client.execute(cwd=str(path.parent), env=environment)
    for cell in notebook.cells:
        if cell.cell_type == "code":  # warnings of this machine's packages
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    for _, output in outputs(notebook):
        if {"image/png", "image/jpeg"} <= output.get("data", {}).keys():
            del output.data["image/png"]
    notebook.metadata = METADATA
    return notebook


def outputs(notebook: nbformat.NotebookNode) -> list[tuple[int, nbformat.NotebookNode]]:
    """Each output, with the number of its cell."""
    return [
        (number, output)
        for number, cell in enumerate(notebook.cells)
        for output in cell.get("outputs", ())
    ]


def images(notebook: nbformat.NotebookNode) -> list[str]:
    """Images in the output, base64."""
    return [
        content
        for _, output in outputs(notebook)
        for kind, content in output.get("data", {}).items()
        if kind.startswith("image/")
    ]


def main() -> None:
    """Execute all notebooks and write them with their output."""
    for path in NOTEBOOKS:
        nbformat.write(execute(path), path)
        print(path, path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()

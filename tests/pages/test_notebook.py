"""docs/notebook.ipynb runs, and gives the outputs that it shows."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebook.ipynb"


NUMBER = re.compile(r"-?\d+\.\d+")


def outputs(notebook: Any) -> str:
    """What the code cells show, as text."""
    shown = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            shown += [each.get("text") or each["data"]["text/plain"] for each in cell.outputs]
    return "\n".join(shown)


def test_the_notebook_was_executed_and_shows_bars_and_a_table() -> None:
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == [1, 2, 3, 4]
    html = [output["data"].get("text/html", "") for cell in cells for output in cell.outputs if "data" in output]
    assert "<progress" in html[0] and "<table" in html[2]
    assert not re.search(r"(?<![\w.<:/])/\w[\w.-]*/", NOTEBOOK.read_text("utf-8")), "the path of somebody's machine"


@pytest.mark.slow
def test_the_notebook_gives_the_outputs_that_it_shows(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    kernels = pytest.importorskip("jupyter_client.kernelspec")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    shown = outputs(notebook)
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    manager = client.create_kernel_manager()
    manager._kernel_spec = kernels.KernelSpec(
        argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"], language="python"
    )
    client.execute()
    # Another FFmpeg moves the numbers a little.
    assert re.sub(r"\s+", " ", NUMBER.sub("#", outputs(notebook))) == re.sub(r"\s+", " ", NUMBER.sub("#", shown))
    again, before = ([float(number) for number in NUMBER.findall(text)] for text in (outputs(notebook), shown))
    assert again == pytest.approx(before, abs=0.03)

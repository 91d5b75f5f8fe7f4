"""The notebook of the examples runs from top to bottom, on real ratings where they lie."""

import asyncio
import os
import warnings
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "examples" / "why_dislikes_matter.ipynb"

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")


def pictures(notebook):
    return sum(
        "image/png" in output.get("data", {})
        for cell in notebook.cells
        for output in cell.get("outputs", ())
    )


def test_notebook_runs_and_draws(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parents[1]))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the kernel's own libraries
        client = nbclient.NotebookClient(
            notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}
        )
        asyncio.run(client.async_execute())
    assert pictures(notebook) == 4
    printed = "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ())
    )
    assert "events of" in printed and "Warning" not in printed
    if Path(os.environ.get("POSNEG_REC_DATA", ""), "ml-100k.parquet").is_file():
        assert "100,000 events of 943 users" in printed


def test_notebook_is_kept_with_its_pictures_and_without_places_of_a_machine():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert pictures(notebook) == 4
    assert "/home" not in NOTEBOOK.read_text() and "site-packages" not in NOTEBOOK.read_text()
    assert NOTEBOOK.stat().st_size < 400_000

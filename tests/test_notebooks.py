"""The notebooks run from top to bottom; small numbers take the place of their parameters."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from conftest import ROOT

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
for package in ("ipykernel", "pandas", "onnxruntime"):
    pytest.importorskip(package)
SMALL = 'TRAIN, VAL, EPOCHS, FOLDER = 12, 6, 1, "small"'


def test_the_quickstart_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "2"))
    notebook = nbformat.read(ROOT / "notebooks" / "quickstart.ipynb", as_version=4)
    assert [cell for cell in notebook.cells if cell.get("outputs")] == []  # the repository holds no outputs
    (parameters,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    parameters.source = SMALL
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert any("image/png" in output.get("data", {}) for output in shown)  # a result draws itself
    assert any("<table" in output.get("data", {}).get("text/html", "") for output in shown)
    for name in ("run/report.html", "run/model.onnx"):
        assert (tmp_path / "small" / name).is_file()
    ours, theirs = shown[-1]["text"].splitlines()[-2:]
    assert ours.startswith("[") and theirs.startswith("[")

"""The notebooks run from top to bottom; small numbers take the place of their parameters.

The export takes about a minute of CPU time and has its own tests in tests/tools/exports. NOTEBOOK_WHOLE=1 runs it too.
"""

from __future__ import annotations

import ast
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
    whole = bool(os.environ.get("NOTEBOOK_WHOLE"))
    if not whole:
        notebook.cells = [cell for cell in notebook.cells if "export" not in cell.metadata.get("tags", ())]
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert any("image/png" in output.get("data", {}) for output in shown)  # a result draws itself
    assert any("<table" in output.get("data", {}).get("text/html", "") for output in shown)
    assert (tmp_path / "small" / "run" / "report.html").is_file()
    assert any("AP50" in output.get("data", {}).get("text/plain", "") for output in shown)
    if whole:
        assert (tmp_path / "small" / "run" / "model.onnx").is_file()
        file, model = (ast.literal_eval(line) for line in shown[-1]["text"].splitlines()[-2:])
        assert [name for name, _ in file] == [name for name, _ in model]


def test_the_last_cell_feeds_what_an_exported_detector_takes(tiny_runs: dict[str, Path]):
    from backbones.trained import find
    from tools.exports.detector import exportable_detector

    tree = ast.parse(nbformat.read(ROOT / "notebooks" / "quickstart.ipynb", as_version=4).cells[-1].source)
    calls = [each for each in ast.walk(tree) if isinstance(each, ast.Assign) and "session.run" in ast.unparse(each)]
    (outputs, fed) = (ast.unparse(calls[0].targets[0]), calls[0].value.args[1])
    file = exportable_detector(find(tiny_runs["det"]))
    assert tuple(key.value for key in fed.keys) == file.inputs
    assert outputs == f"({', '.join(file.outputs)})"

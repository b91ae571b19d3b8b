"""The scripts on the page about deployment need onnxruntime, NumPy and Pillow alone, and answer as `load` does."""

from __future__ import annotations

import ast
import json
import re
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, size_of
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import classification
import segmentation
from segmentation.options import SegmenterOptions
from tools import export

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
SCRIPTS = {text.split(":")[0].split()[0].strip('"'): text for text in re.findall(
    r'```python\n("""[A-Z].*?)```', (ROOT / "docs/DEPLOYMENT.md").read_text(encoding="utf-8"), re.DOTALL
)}  # fmt: skip


def run_script(name: str, *words: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a script of the page, by the first word of its docstring."""
    monkeypatch.setattr(sys, "argv", ["script.py", *map(str, words)])
    exec(compile(SCRIPTS[name], name, "exec"), {"__name__": "__main__"})


def saved(model: nn.Module, path: Path, meta: dict[str, object]) -> Path:
    save_file(model.state_dict(), path, metadata={"meta": json.dumps(meta), "config": "{}"})
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Six pictures of blocks of noise, wide and tall."""
    (tmp_path / "pictures").mkdir()
    random, paths = np.random.default_rng(0), []
    for number, size in enumerate(((96, 70), (70, 120), (64, 64), (64, 90), (80, 64), (101, 83))):
        small = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        paths.append(tmp_path / "pictures" / f"{number}.png")
        small.resize(size, Image.Resampling.NEAREST).save(paths[-1])
    return paths


def test_the_scripts_are_short_and_import_three_packages() -> None:
    assert set(SCRIPTS) == {"Classify", "Detect", "Label", "Segment"}
    for text in SCRIPTS.values():
        assert len(text.splitlines()) <= 40
        imported = {
            (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name)
            for node in ast.walk(ast.parse(text))
            if isinstance(node, (ast.Import, ast.ImportFrom))
        }
        assert imported <= {"json", "sys", "numpy", "onnxruntime", "PIL"}


def unused_constants(path: Path) -> set[str]:
    """Return the names of the constants of an ONNX file that no node of its main graph reads."""
    graph = pytest.importorskip("onnx").load(path).graph
    return {each.name for each in graph.initializer} - {name for node in graph.node for name in node.input}


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_classifying_script_answers_as_load(
    tiny_backbone: str, pictures: list[Path], tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch, multi_label: bool
) -> None:
    torch.manual_seed(0)
    model = classification.build(tiny_backbone, 3)
    seen = {"in_channels": 3, "crop_size": 48, "resize_size": 64, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}
    meta = {"task": "classification", "classes": ["a", "b", "c"], "input": seen, "model": {"backbone": tiny_backbone}}
    meta |= {"multi_label": True, "thresholds": dict.fromkeys("abc", 0.0)} if multi_label else {}
    run = saved(model, tmp_path / "model.safetensors", meta)
    export.main(["--run", str(run), "--images", str(pictures[0].parent)])
    loaded = classification.load(run, precision="fp32")
    for path in pictures:
        capsys.readouterr()
        run_script("Classify", tmp_path / "model.onnx", path, monkeypatch=monkeypatch)
        found = dict(reversed(line.split()) for line in capsys.readouterr().out.splitlines())
        expected = dict(zip(*(lambda r: (r.names, r.probabilities.tolist()))(loaded(path)), strict=True))
        # Images whose shorter side is 64 are not resized. Pillow and torch may round resized bytes differently.
        near = 1e-4 if min(size_of(path)) == 64 else 1e-2
        assert {name: float(value) for name, value in found.items()} == pytest.approx(expected, abs=near)


def test_the_labelling_script_answers_as_load(
    tiny_backbone: str, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thin image is enlarged to the least side; its scores are shrunk as `load` does, without antialiasing."""
    torch.manual_seed(0)
    options = SegmenterOptions(tiny_backbone, "fcn8s", weights="none", aux=False)
    model = segmentation.build(tiny_backbone, 3, head=options.head, aux=False)
    assert model.fusion is not None
    for scores in model.fusion.scores:
        torch.nn.init.normal_(scores.weight)  # they begin at zero
    seen = {"in_channels": 3, "min_size": 0, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}
    colours = [[0, 0, 0], [9, 0, 0], [0, 9, 0]]
    meta = {"task": "segmentation", "classes": ["a", "b", "c"], "colours": colours, "input": seen}
    run = saved(model, tmp_path / "model.safetensors", {**meta, "model": asdict(options)})
    export.main(["--run", str(run), "--images", str(pictures[0].parent)])
    loaded, file = segmentation.load(run, precision="fp32"), segmentation.load(tmp_path / "model.onnx")
    thin = tmp_path / "pictures" / "thin.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 4, 3), dtype=np.uint8)).save(thin)
    for path in (*pictures[:4], thin):
        run_script("Label", tmp_path / "model.onnx", path, tmp_path / "labels.png", monkeypatch=monkeypatch)
        found, expected = (
            np.asarray(Image.open(tmp_path / "labels.png")),
            (file if path == thin else loaded)(path).labels.numpy(),
        )
        assert found.shape == expected.shape and (found == expected).mean() > 0.999


@pytest.mark.parametrize("min_size", [0, 50])
def test_a_raw_segmentation_file_takes_images_of_any_size(
    tiny_backbone: str, pictures: list[Path], tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch, min_size: int
) -> None:
    """Bytes in, scores and class numbers of their pixels out; FCN-16s crops its maps inside the file."""
    torch.manual_seed(0)
    options = SegmenterOptions(tiny_backbone, "fcn16s", weights="none", aux=False)
    model = segmentation.build(tiny_backbone, 3, head=options.head, aux=False)
    assert model.fusion is not None
    torch.nn.init.normal_(model.fusion.scores[0].weight)  # they begin at zero
    seen = {"in_channels": 3, "min_size": min_size, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}
    colours = [[0, 0, 0], [9, 0, 0], [0, 9, 0]]
    meta = {"task": "segmentation", "classes": ["a", "b", "c"], "colours": colours, "input": seen}
    run, path = saved(model, tmp_path / "model.safetensors", {**meta, "model": asdict(options)}), tmp_path / "raw.onnx"
    export.main(["--run", str(run), "--raw", "--output", str(path), "--images", str(pictures[0].parent)])
    said = capsys.readouterr().out
    assert "sizes        any" in said and "24x40" in said  # the smallest image of the check
    loaded, file = segmentation.load(run, precision="fp32"), segmentation.load(path)
    small = tmp_path / "pictures" / "small.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (33, 17, 3), dtype=np.uint8)).save(small)
    for picture in (*pictures, small):
        run_script("Segment", path, picture, tmp_path / "labels.png", monkeypatch=monkeypatch)
        found, expected = np.asarray(Image.open(tmp_path / "labels.png")), loaded(picture).labels.numpy()
        assert found.shape == expected.shape
        # The file does not round resized images to bytes, as `load` does; a class changes only between near scores.
        assert (found == expected).mean() > (0.98 if min_size else 0.999)
        assert (file(picture).labels.numpy() == expected).mean() > 0.999
    assert file.model.file.metadata["preparation"]["in the file"] is True
    assert not unused_constants(path)  # onnxruntime would print a warning about each

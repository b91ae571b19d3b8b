"""Imports point one way, and what must start quickly imports nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("backbones", "classification", "detection", "segmentation", "tools")
TASKS = {"classification", "detection", "segmentation"}
# Thin scripts over the task-blind files; they may know tasks.
SCRIPTS = (
    "train_",
    "det_data",
    "eval_",
    "benchmark",
    "analyse_",
    "check_",
    "convert_",
    "replay",
    "report",
    "predict",
    "list_",
    "export",
    "hub",
)
ALLOWED = {
    "backbones": {"backbones"},
    "classification": {"classification", "backbones"},
    "detection": {"detection", "backbones"},
    "segmentation": {"segmentation", "backbones"},
    "tools": {"tools", "backbones"},
}


def modules() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def imports(path: Path) -> set[str]:
    """Top-level packages of ours that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: import siblings by their full name"
            names = [node.module or ""]
        found |= {name.split(".")[0] for name in names}
    return found & set(PACKAGES)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Path):
    package = path.relative_to(ROOT).parts[0]
    allowed = ALLOWED[package]
    if package == "tools" and path.name.startswith(SCRIPTS):
        allowed = allowed | TASKS
    assert imports(path) <= allowed


def test_the_check_sees_imports():
    """It would be worthless if it found nothing."""
    assert imports(ROOT / "tools" / "train_det.py") >= {"detection", "backbones", "tools"}
    assert imports(ROOT / "detection" / "faster_rcnn.py") == {"detection", "backbones"}


def test_no_script_or_module_of_tools_bears_a_name_of_the_standard_library():
    names = {path.stem for path in (ROOT / "tools").glob("*.py")} - {"__init__"}
    assert names.isdisjoint(sys.stdlib_module_names)


LIGHT = {
    "backbones.errors": ("torch", "timm", "numpy"),
    "backbones.registry": ("torch", "timm", "numpy"),
    "backbones": ("timm", "albumentations", "cv2"),
    "detection": ("torch", "albumentations"),
    "segmentation": ("torch", "albumentations"),
    "tools.engine.options": ("torch", "numpy"),
    "tools.train_det": ("torch", "timm", "albumentations", "numpy"),
    "tools.train_seg": ("torch", "timm", "albumentations", "numpy"),
    "tools.check_data": ("torch", "numpy"),
    "tools.report": ("torch", "numpy"),
    "tools.predict": ("torch", "numpy"),
    "tools.eval_coco": ("torch", "pycocotools", "hotcoco"),
}


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_stay_light(module: str):
    code = f"import sys, {module}; print([name for name in {LIGHT[module]!r} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_the_distribution_lists_every_package():
    listed = (ROOT / "setup.py").read_text(encoding="utf-8")
    for package in PACKAGES:
        assert (ROOT / package).is_dir() == (f'"{package}"' in listed.split("packages=")[1].split("]")[0])

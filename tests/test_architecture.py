"""Imports follow a table without circles, nothing imports a command, and quick commands import nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGES = ("backbones", "classification", "detection", "segmentation", "tools")
TASKS = {"classification", "detection", "segmentation"}
COMMANDS = "commands"  # tools/*.py

# Room -> the rooms that its files may import besides their own.
BASE = {"backbones"}
RUNNING = {*BASE, "tools/processes", "tools/cli", "tools/engine"}
TRAINING = {*RUNNING, *TASKS, "tools/tasks", "tools/evaluation", "tools/synthetic"}
ALLOWED: dict[str, set[str]] = {
    "backbones": set(),
    "classification": BASE,
    "detection": BASE,
    "segmentation": BASE,
    "tools/processes": BASE,
    "tools/synthetic": BASE,
    "tools/evaluation": BASE,
    "tools/cli": {*BASE, "tools/processes"},
    "tools/engine": {*BASE, "tools/processes", "tools/cli"},
    "tools/tasks": TRAINING - {"tools/tasks"},
    "tools/runs": {*BASE, *TASKS, "tools/evaluation", "tools/synthetic"},
    "tools/reports": {*BASE, *TASKS, "tools/evaluation", "tools/synthetic", "tools/runs"},
    "tools/checks": {*BASE, *TASKS, "tools/processes"},
    "tools/prediction": {*BASE, *TASKS, "tools/processes"},
    "tools/viewer": {*BASE, *TASKS, "tools/prediction"},
    "tools/exports": {*TRAINING, "tools/runs"},
    "tools/benchmarks": {*TRAINING, "tools/runs", "tools/exports", "tools/prediction"},
    "tools/analysis": {*TRAINING, "tools/reports"},
    "tools/ranking": {*RUNNING, *TASKS, "tools/reports"},
    "tools/experiments": {*TRAINING, "tools/runs", "tools/reports"},
}


def room_of(path: Path, root: Path) -> str:
    """The room of a file: its package, the folder below tools/, or the commands."""
    parts = path.relative_to(root).parts
    if parts[0] != "tools":
        return parts[0]
    return "/".join(parts[:2]) if len(parts) > 2 else COMMANDS


def modules(root: Path) -> dict[str, Path]:
    """Dotted names of the project's modules, with their files."""
    files = [path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]
    return {".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """Modules of the project that a file imports, anywhere in it, also for types alone."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: import siblings by their full name"
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in known else str(node.module) for name in full}
    return found & set(known)


def violations(root: Path) -> list[str]:
    """Imports that the table does not allow, and circles of files."""
    known = modules(root)
    graph = {name: imports(path, known) - {name} for name, path in known.items()}
    rooms = {name: room_of(path, root) for name, path in known.items()}
    found = []
    for name, imported in graph.items():
        allowed = {*ALLOWED, *TASKS} if rooms[name] == COMMANDS else {*ALLOWED[rooms[name]], rooms[name]}
        found += [f"{name} imports {other}" for other in sorted(imported) if rooms[other] not in allowed]
    return found + [f"circle: {circle}" for circle in circles(graph)]


def circles(graph: dict[str, set[str]]) -> Iterator[str]:
    """Name one circle for each edge that closes one (depth-first search)."""
    done: set[str] = set()

    def visit(node: str, path: list[str]) -> Iterator[str]:
        if node in path:
            yield " -> ".join([*path[path.index(node) :], node])
        if node in done or node in path:
            return
        for other in sorted(graph[node]):
            yield from visit(other, [*path, node])
        done.add(node)

    for node in sorted(graph):
        yield from visit(node, [])


def test_imports_follow_the_table_without_circles():
    assert violations(ROOT) == []


def test_the_table_has_no_circles():
    assert list(circles(ALLOWED)) == []


def test_every_room_is_in_the_table():
    assert {room_of(path, ROOT) for path in modules(ROOT).values()} == {*ALLOWED, COMMANDS}


PLANTED = {
    "backbones/a.py": ("import detection.b", "backbones.a imports detection.b"),
    "detection/b.py": ("from tools.engine import c", "detection.b imports tools.engine.c"),
    "classification/b.py": ("def f():\n    from segmentation.b import x", "classification.b imports segmentation.b"),
    "tools/engine/c.py": ("from tools.tasks.d import x", "tools.engine.c imports tools.tasks.d"),
    "tools/reports/e.py": ("from tools import command", "tools.reports.e imports tools.command"),
    "tools/runs/f.py": ("from tools.runs.g import x", "circle: tools.runs.f -> tools.runs.g -> tools.runs.f"),
}
OTHERS = ("tools/command.py", "tools/tasks/d.py", "segmentation/b.py")


@pytest.mark.parametrize("file", PLANTED)
def test_a_planted_violation_is_found(tmp_path: Path, file: str):
    for name in (*PLANTED, *OTHERS):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "tools/runs/g.py").write_text("from tools.runs.f import x" if file == "tools/runs/f.py" else "")
    assert violations(tmp_path) == []
    (tmp_path / file).write_text(PLANTED[file][0])
    assert PLANTED[file][1] in violations(tmp_path)


def test_no_command_bears_a_name_of_the_standard_library():
    names = {path.stem for path in (ROOT / "tools").glob("*.py")} - {"__init__"}
    assert names.isdisjoint(sys.stdlib_module_names)


def test_every_file_directly_in_tools_is_a_command():
    commands = [path for path in (ROOT / "tools").glob("*.py") if path.stem != "__init__"]
    assert [path.name for path in commands if '__name__ == "__main__"' not in path.read_text(encoding="utf-8")] == []


LARGE = (
    *("numpy", "torch", "torchvision", "timm", "albumentations", "cv2", "matplotlib", "pycocotools", "hotcoco", "PIL"),
    *("pandas", "pydantic", "jsonargparse", "attr", "rich", "email", "asyncio", "importlib.metadata"),
)
LIGHT = {
    "backbones.errors": ("torch", "timm", "numpy"),
    "backbones.registry": ("torch", "timm", "numpy"),
    "backbones": ("timm", "albumentations", "cv2"),
    "detection": ("torch", "albumentations"),
    "segmentation": ("torch", "albumentations"),
    "tools.engine.options": ("torch", "numpy"),
}


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_stay_light(module: str):
    code = f"import sys, {module}; print([name for name in {LIGHT[module]!r} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_the_help_of_a_command_loads_no_large_library():
    """All commands in one process: `--help` is quick, and loads no library that takes a tenth of a second."""
    code = f"""
import contextlib, io, sys
from tools.benchmarks.subcommands import BENCHMARKS
from tools.cli import console
before = set(sys.modules)  # what installed packages import when Python starts
for words in [*console.SUBCOMMANDS, *(f"benchmark {{name}}" for name in BENCHMARKS)]:
    with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.suppress(SystemExit):
        console.main([*words.split(), "--help"])
    loaded = set(sys.modules) - before
    print(words, len(shown.getvalue()) > 200, [large for large in {LARGE!r} if large in loaded], sep=": ")
"""
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {line.partition(": ")[2] for line in out.stdout.splitlines()} == {"True: []"}, out.stdout


def test_the_distribution_holds_every_package_and_its_data():
    code = "import setuptools, runpy; setuptools.setup = lambda **given: print(sorted(given['packages']))"
    out = subprocess.run(
        [sys.executable, "-c", f"{code}; runpy.run_path('setup.py')"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    folders = {path.parent for path in modules(ROOT).values()}
    assert ast.literal_eval(out.stdout) == sorted(".".join(folder.relative_to(ROOT).parts) for folder in folders)

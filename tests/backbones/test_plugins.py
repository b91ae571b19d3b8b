"""Tests of registries, and of plugins that register names."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from backbones.common import plugins
from backbones.common.registry import Registry
from backbones.errors import UserError


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget the plugins, modules and search folders of each test."""
    before = set(sys.modules)
    monkeypatch.setattr(plugins, "_loaded", {})
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


# Registry


def test_registry_keeps_the_order_and_returns_what_it_was_given() -> None:
    necks: Registry = Registry("neck")

    @necks.register("fpn")
    def build_fpn() -> str:
        return "fpn"

    @necks.register("c4")
    class C4:
        pass

    assert necks.names() == ["fpn", "c4"]
    assert necks["fpn"] is build_fpn and necks["c4"] is C4
    assert "fpn" in necks and "dc5" not in necks


def test_registry_refuses_duplicates_and_bad_names() -> None:
    necks: Registry = Registry("neck")
    necks.register("fpn")(print)
    with pytest.raises(ValueError, match=r"neck 'fpn' is registered already, by builtins\.print"):
        necks.register("fpn")
    late = necks.register("late")
    late(print)
    with pytest.raises(ValueError, match="neck 'late' is registered already"):
        late(print)
    with pytest.raises(ValueError, match="neck name ''"):
        necks.register("")


def test_registry_suggests_at_most_five_names() -> None:
    heads: Registry = Registry("head")
    for i in range(9):
        heads.register(f"fcn{i}s")(print)
    with pytest.raises(UserError) as caught:
        heads["fcn16s"]
    text = str(caught.value)
    assert text.startswith("unknown head 'fcn16s': did you mean fcn") and text.count(", ") == 4
    with pytest.raises(UserError, match=r"unknown head 'x': known names are fcn0s, .*, fcn4s, \.\.\.$"):
        heads["x"]


# Plugins


def test_a_file_is_imported_once(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.py", "print('imported')\nvalue = 3\n")
    (plugin,) = plugins.load([str(path)])
    assert plugin.module.value == 3
    assert sys.modules[plugin.module.__name__] is plugin.module
    assert plugins.load([path, str(path)]) == [plugin, plugin]
    assert plugins.loaded_names() == [str(path)]
    assert plugins.load(None) == []


def test_a_file_that_the_program_imported_itself_is_not_imported_again(tmp_path: Path) -> None:
    path = write(tmp_path / "imported_before.py", "")
    sys.path.append(str(tmp_path))
    import imported_before  # type: ignore[import-not-found]

    (plugin,) = plugins.load([str(path)])
    assert plugin.module is imported_before


def test_a_file_imports_its_neighbours_and_pickles(tmp_path: Path) -> None:
    write(tmp_path / "neighbour_of_mine.py", "number = 7\n")
    path = write(
        tmp_path / "mine.py",
        "from dataclasses import dataclass\nfrom neighbour_of_mine import number\n"
        "@dataclass\nclass A:\n    x: int = number\n",
    )
    import pickle

    (plugin,) = plugins.load([str(path)])
    assert pickle.loads(pickle.dumps(plugin.module.A())) == plugin.module.A(7)


def test_a_module_is_found_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "my_package" / "__init__.py", "")
    write(tmp_path / "my_package" / "nets.py", "value = 4\n")
    monkeypatch.chdir(tmp_path)
    (plugin,) = plugins.load(["my_package.nets"])
    assert plugin.module.value == 4
    assert plugins.loaded_names() == ["my_package.nets"]


def test_two_plugins_of_one_name_are_refused(tmp_path: Path) -> None:
    first, second = (write(tmp_path / folder / "mine.py", "") for folder in ("a", "b"))
    plugins.load([first])
    with pytest.raises(
        UserError, match=f"plugin {second}: another plugin of this name is already loaded from {first}; rename"
    ):
        plugins.load([second])


def test_missing_plugins_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"plugin no.py: no such file in {tmp_path}; give the path"):
        plugins.load(["no.py"])
    with pytest.raises(UserError, match=r"plugin no\.such: there is no module 'no' in "):
        plugins.load(["no.such"])
    assert plugins.loaded_names() == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import sys\n\ndef f(:\n", "line 3: SyntaxError: "),
        ("x = 1\ny = undefined\n", "line 2: NameError: name 'undefined' is not defined; "),
        ("import no_such_dependency\n", "line 1: ModuleNotFoundError: No module named 'no_such_dependency'; "),
        ("def f():\n    raise KeyError('a')\n\nf()\n", "line 2: KeyError: 'a'; "),
        ("import json\n\njson.loads('{')\n", "line 3: JSONDecodeError: "),
        ("import sys\nsys.exit(3)\n", "line 2: SystemExit: 3; "),
    ],
)
@pytest.mark.parametrize("as_module", [False, True])
def test_a_broken_plugin_is_named_with_its_line(
    text: str, said: str, as_module: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "broken_plugin.py", text)
    monkeypatch.chdir(tmp_path)
    name = "broken_plugin" if as_module else "broken_plugin.py"
    with pytest.raises(UserError) as caught:
        plugins.load([name])
    message = str(caught.value)
    assert message.startswith(f"plugin {name}: {path}, {said}") and message.endswith("; fix the plugin")
    assert "\n" not in message
    # Once corrected, it loads in the same process.
    write(path, "value = 12345\n")
    os.utime(path, (1, 1))  # differs from the time of the cached bytecode
    assert plugins.load([name])[0].module.value == 12345


def test_a_run_names_the_plugins_that_it_needs(tmp_path: Path) -> None:
    plugins.require(None, where="run")
    plugins.require([], where="run")
    with pytest.raises(UserError) as caught:
        plugins.require(["/home/alice/mine.py", "pkg.necks"], where="runs/a")
    text = str(caught.value)
    assert text.startswith("runs/a: this run was trained with plugins that are not loaded: '/home/alice/mine.py', 'pk")
    assert "--plugin /home/alice/mine.py --plugin pkg.necks" in text and "\n" not in text
    assert "plugins=['/home/alice/mine.py', 'pkg.necks'] in Python" in text
    # The same plugin may be in another folder, as on another machine.
    plugins.load([write(tmp_path / "mine.py", "")])
    with pytest.raises(UserError, match=r"not loaded: 'pkg\.necks'; "):
        plugins.require(["/home/alice/mine.py", "pkg.necks"], where="runs/a")


def test_a_plugin_that_the_program_imported_counts(tmp_path: Path) -> None:
    write(tmp_path / "imported_by_hand.py", "")
    sys.path.append(str(tmp_path))
    with pytest.raises(UserError):
        plugins.require(["nets/imported_by_hand.py"], where="run")
    import imported_by_hand  # type: ignore[import-not-found] # noqa: F401

    plugins.require(["nets/imported_by_hand.py", "imported_by_hand"], where="run")


def test_requiring_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "evil.py", "raise SystemExit('it ran')")
    monkeypatch.chdir(tmp_path)
    for recorded in (["evil.py"], ["evil"], "evil.py", [3]):
        with pytest.raises(UserError, match="not loaded"):
            plugins.require(recorded, where="run")


@pytest.mark.parametrize("module", ["backbones.common.plugins", "backbones.common.registry"])
def test_they_import_no_torch(module: str) -> None:
    code = f"import sys, {module}; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]

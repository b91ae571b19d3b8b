"""Loads plugins: a user's Python files or modules that register backbones, necks, heads, data layouts or augmentations.

A plugin is imported only because the user named it, by `--plugin NAME` or `plugins=[NAME]`. A trained run records the
names of its plugins but never imports them: a run that somebody downloaded must not execute code.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from backbones.errors import UserError, first_line

# Name in sys.modules of a plugin file. The prefix keeps `random.py` of a user from replacing the standard library's.
_PREFIX = "resnet_transfer_plugin_"


@dataclass(frozen=True)
class Plugin:
    """A loaded plugin.

    Attributes:
        name: the path of a file or the dotted name of a module, as the user gave it.
        module: the imported module.
    """

    name: str
    module: ModuleType


# Loaded plugins by `_key`, in the order of loading.
_loaded: dict[str, Plugin] = {}


def load(names: Sequence[str | os.PathLike[str]] | None) -> list[Plugin]:
    """Import plugins in order, each of them once per process. Call this function before looking up registered names.

    Args:
        names: paths that end in ".py", or dotted names of modules. Modules are also searched in the current folder, and
            a plugin file may import modules from its own folder. None loads nothing.

    Returns:
        The plugins of `names`, including those that had been loaded before.

    Raises:
        UserError: a plugin does not exist, or an error was raised inside it; the message names the file and the line.
    """
    if isinstance(names, (str, os.PathLike)):
        names = [names]
    return [_load(os.fspath(name)) for name in names or ()]


def loaded_names() -> list[str]:
    """Return the names of all loaded plugins as the user gave them. A run's metadata records these names."""
    return [plugin.name for plugin in _loaded.values()]


def require(recorded: object, *, where: str | os.PathLike[str]) -> None:
    """Check that the plugins of a trained run are loaded. Nothing is imported here.

    A plugin counts as loaded if a file or module with the same last name is loaded. Its folder does not matter, so that
    a run can be used on another machine. A module that the user's own program imported counts too.

    Args:
        recorded: the list of names in the run's metadata, or None if the run used no plugin.
        where: the run's path, for the message.

    Raises:
        UserError: naming the plugins that are not loaded and the options that load them.
    """
    names = recorded if isinstance(recorded, (list, tuple)) else [] if recorded is None else [recorded]
    missing = [str(name) for name in names if not _is_loaded(str(name))]
    if missing:
        options = " ".join(f"--plugin {shlex.quote(name)}" for name in missing)
        listed = ", ".join(map(repr, missing))
        raise UserError(
            f"{where}: this run was trained with plugins that are not loaded: {listed}; a run never "
            f"imports code by itself, so name them: {options} on the command line, or "
            f"plugins=[{listed}] in Python"
        )


def _key(name: str) -> str:
    """Return the last part of a plugin's name, such as "nets" for /home/me/nets.py and for mine.nets."""
    return Path(name).stem if name.endswith(".py") else name.rpartition(".")[2]


def _is_loaded(name: str) -> bool:
    return _key(name) in _loaded or (_key(name) if name.endswith(".py") else name) in sys.modules


def _load(name: str) -> Plugin:
    """Return one plugin. Import it unless it is already loaded."""
    key = _key(name)
    before = _loaded.get(key)
    if before is None:
        module = _import_file(name) if name.endswith(".py") else _import_module(name)
        before = _loaded[key] = Plugin(name, module)
    elif not _is_same(before, name):
        raise UserError(
            f"plugin {name}: another plugin of this name is already loaded from {before.module.__file__}; "
            "rename one of the two files"
        )
    return before


def _is_same(plugin: Plugin, name: str) -> bool:
    """Return whether a name and an already loaded plugin mean the same file or module."""
    if not name.endswith(".py"):
        return name in (plugin.name, plugin.module.__name__)
    return _is_file(plugin.module, Path(name).expanduser().resolve())


def _import_file(name: str) -> ModuleType:
    path = Path(name).expanduser().resolve()
    if not path.is_file():
        raise UserError(f"plugin {name}: no such file in {Path.cwd()}; give the path of a Python file")
    # The user's program may have imported this file by an ordinary import. A second import would register twice.
    for module in list(sys.modules.values()):
        if isinstance(module, ModuleType) and _is_file(module, path):
            return module
    spec = importlib.util.spec_from_file_location(_PREFIX + path.stem, path)
    if spec is None or spec.loader is None:
        raise UserError(f"plugin {name}: is not a Python file; give a file that ends in .py")
    module = importlib.util.module_from_spec(spec)
    _search_also(path.parent)
    sys.modules[module.__name__] = module  # before execution, so that pickle and dataclasses find the module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[module.__name__]
        raise _broken(name, error) from error
    return module


def _import_module(name: str) -> ModuleType:
    _search_also(Path.cwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # A missing dependency inside the plugin has another name, and its own line.
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise UserError(
                f"plugin {name}: there is no module {error.name!r} in {Path.cwd()} or among the installed packages; "
                "give a module's dotted name, or a path that ends in .py"
            ) from None
        raise _broken(name, error) from error
    except (Exception, SystemExit) as error:
        raise _broken(name, error) from error


def _search_also(folder: Path) -> None:
    """Add a folder to the end of sys.path, where it cannot replace installed modules."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _is_file(module: ModuleType, path: Path) -> bool:
    """Return whether a module was imported from a file, given by its absolute path without links."""
    file = vars(module).get("__file__")
    return isinstance(file, str) and os.path.basename(file) == path.name and Path(file).resolve() == path


def _broken(name: str, error: BaseException) -> UserError:
    """Return the error for a plugin whose import failed, with the file and line."""
    kind = type(error).__name__
    return UserError(f"plugin {name}: {_place(name, error)}: {kind}: {first_line(error)}; fix the plugin")


def _place(name: str, error: BaseException) -> str:
    """Return "FILE, line N" for an error: the innermost frame of its traceback inside the plugin's folder."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<frozen") and frame.filename not in (__file__, importlib.__file__)
    ]
    if not frames:
        return name
    folder = os.path.dirname(frames[0].filename)
    inside = [frame for frame in frames if os.path.dirname(frame.filename) == folder]
    return f"{inside[-1].filename}, line {inside[-1].lineno}"

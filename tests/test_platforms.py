"""Modules that only POSIX systems have, and their signals, are not needed to import anything."""

from __future__ import annotations

import subprocess
import sys

from conftest import ROOT

IMPORT_WITHOUT = """
import importlib, os, pathlib, signal, sys

names = []
for room in ("backbones", "classification", "detection", "segmentation", "tools"):
    for path in sorted(pathlib.Path(room).rglob("*.py")):
        names.append(".".join(path.with_suffix("").parts).removesuffix(".__init__"))
for name in names:  # the libraries may use what they find
    importlib.import_module(name)
for name in names:
    sys.modules.pop(name, None)
for name in ("fcntl", "resource", "termios", "pwd", "grp", "tty", "pty"):
    sys.modules[name] = None
for owner, name in ((signal, "SIGUSR1"), (signal, "SIGUSR2"), (signal, "SIGHUP"), (signal, "SIGCHLD"),
                    (signal, "SIGKILL"), (os, "fork"), (os, "killpg"), (os, "sched_getaffinity"), (os, "statvfs")):
    if hasattr(owner, name):
        delattr(owner, name)
for name in names:
    importlib.import_module(name)
from backbones.common.machine import cores, peak_memory
from tools.processes.limits import raise_open_files, require_open_files
from tools.processes.locks import lock_for_life
raise_open_files()
require_open_files(1000)
assert cores() > 0 and peak_memory() is None
path = pathlib.Path(sys.argv[1])
assert lock_for_life(path) and not lock_for_life(path)
print(len(names))
"""


def test_every_module_imports_without_what_only_posix_systems_have(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_WITHOUT, str(tmp_path / "lock")], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[-1]) > 200

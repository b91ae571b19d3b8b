"""The version of this toolkit, which runs, weights files and exported models record."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

from backbones import __version__

ROOT = Path(__file__).resolve().parents[2]


@cache
def toolkit_version() -> str:
    """Return the version of this toolkit; in a git checkout with the commit, such as "0.1.0 (commit 1a2b3c4-dirty)".

    "-dirty" says that files of the checkout differ from the commit.
    """
    commit = _commit(ROOT)
    return f"{__version__} (commit {commit})" if commit else __version__


def _commit(root: Path) -> str:
    """Return the commit of the checkout `root`; "" if the folder is not a checkout, or git is not installed."""
    if not (root / ".git").exists():  # a folder further up may be a checkout of something else
        return ""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""

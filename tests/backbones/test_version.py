"""The version that runs and exports record: in a git checkout with the commit and whether files differ from it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from backbones.common import version


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A git checkout of one file, which stands for that of the toolkit."""
    if shutil.which("git") is None:
        pytest.skip("needs git")
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    (tmp_path / "file").write_text("1")
    for words in (("init", "-q"), ("add", "file"), (*who, "commit", "-qm", "First")):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    monkeypatch.setattr(version, "ROOT", tmp_path)
    version.toolkit_version.cache_clear()
    yield tmp_path
    version.toolkit_version.cache_clear()


def test_the_commit_and_changed_files_are_named(checkout: Path) -> None:
    head = subprocess.run(
        ["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout
    clean = version.toolkit_version()
    commit = clean.partition("(commit ")[2].rstrip(")")
    assert len(commit) >= 7 and head.startswith(commit)
    (checkout / "file").write_text("2")
    version.toolkit_version.cache_clear()
    assert version.toolkit_version() == clean.replace(commit, f"{commit}-dirty")


def test_outside_a_checkout_there_is_no_commit(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (checkout / "below").mkdir()  # a folder of somebody else's checkout
    monkeypatch.setattr(version, "ROOT", checkout / "below")
    assert "commit" not in version.toolkit_version()


def test_without_git_there_is_no_commit(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(checkout))
    assert "commit" not in version.toolkit_version()

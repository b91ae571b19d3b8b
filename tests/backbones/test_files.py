"""Files and folders that are written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from backbones.common.files import atomic_file, create_once, read_yaml, require_creatable
from backbones.errors import UserError


def test_a_folder_that_cannot_be_created_is_one_line(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/new: cannot be written \(.*\); name another"):
        create_once(tmp_path / "file" / "new", is_complete=lambda: False, write=Path.mkdir, fix="name another")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc, a folder that refuses new files")
def test_a_folder_that_refuses_new_files_ends_at_once():
    with pytest.raises(UserError, match=r"^/proc/new: cannot be written \(No such file or directory\); free space, or"):
        create_once(Path("/proc/new"), is_complete=lambda: False, write=Path.mkdir)


def test_a_folder_in_a_file_is_refused_before_it_is_created(tmp_path: Path):
    (tmp_path / "file").touch()
    for name in ("file", "file/new", "file/new/er"):
        with pytest.raises(
            UserError, match=rf"--output .*{name}: cannot be created \(.*file is a file\); name another"
        ):
            require_creatable(tmp_path / name)
    require_creatable(tmp_path / "new" / "er")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_file_elsewhere_that_cannot_be_read_is_named(tmp_path: Path):
    source = tmp_path / "data" / "a.jpg"

    def write(folder: Path) -> None:
        folder.mkdir()
        (folder / "a.jpg").write_bytes(source.read_bytes())

    with pytest.raises(UserError, match=rf"out/new: cannot be written \({source}: No such file or directory\)"):
        create_once(tmp_path / "out" / "new", is_complete=lambda: False, write=write)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".new.lock"]


def test_a_yaml_file_that_cannot_be_read_says_what_to_do(tmp_path: Path):
    path = tmp_path / "options.yaml"
    with pytest.raises(UserError, match=r"options.yaml: cannot be read \(No such file or directory\); check the path$"):
        read_yaml(path)
    path.write_text("a: [")
    with pytest.raises(UserError, match=r"options.yaml: is not YAML \(.*\); fix the file$"):
        read_yaml(path)
    with pytest.raises(UserError, match=r"; name an experiment$"):
        read_yaml(path, fix="name an experiment")


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path):
    target = tmp_path / "model.onnx"
    with atomic_file(target) as first, atomic_file(target) as second:
        first.write_text("first")
        second.write_text("second")
    assert target.read_text() == "first" and list(tmp_path.iterdir()) == [target]

"""Conversion of class folders to shards: each file once, reproducible bytes, and user errors."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from backbones.errors import UserError
from classification.data.shard_index import read_index
from classification.data.shard_reader import read_shard
from tools import make_shards


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Seven training and three validation files of two classes; names that are difficult for tar or webdataset."""
    names = {
        "train/ant": ["a.jpg", "b.c.PNG", "ü" * 60 + ".jpeg", ".hidden"],
        "train/bee": ["a.jpg", "a.png", "__x__.webp", "y.npy"],
        "val/ant": ["1.jpg", "2.jpg"],
        "val/bee": ["1.jpg"],
    }
    for folder, files in names.items():
        (tmp_path / "data" / folder).mkdir(parents=True)
        for name in files:
            (tmp_path / "data" / folder / name).write_bytes(f"{folder}/{name}".encode())
    return tmp_path / "data"


def test_every_file_once_in_shards_of_the_size_asked_for(script, data: Path, tmp_path: Path):
    done = script("make_shards.py", "--data", data, "--output", tmp_path / "out", "--shard-size", 3, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "train: 7 images in 3 shards" in done.stdout
    assert json.loads((tmp_path / "out" / "shards.json").read_text()) == {
        "classes": ["ant", "bee"],
        "train": {"train-000000.tar": 3, "train-000001.tar": 3, "train-000002.tar": 1},
        "val": {"val-000000.tar": 3},
    }
    assert len(list((tmp_path / "out").iterdir())) == 5  # no temporary files
    index = read_index(str(tmp_path / "out"))
    for split, count in (("train", 7), ("val", 3)):
        found = [sample for shard in getattr(index, split) for sample in read_shard(shard, classes=2)]
        paths = [data / sample.content.decode() for sample in found]
        assert len(set(paths)) == len(paths) == count
        assert all(path.is_file() and path.parent.name == index.classes[s.label] for path, s in zip(paths, found))


def test_the_seed_gives_the_order(script, data: Path, tmp_path: Path):
    tars = []
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        done = script("make_shards.py", "--data", data, "--output", folder, "--seed", seed, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        tars.append([(tmp_path / folder / f"{split}-000000.tar").read_bytes() for split in ("train", "val")])
    assert tars[0] == tars[1]
    assert tars[0][0] != tars[2][0]  # training is shuffled
    assert tars[0][1] == tars[2][1]  # validation is not
    with tarfile.open(tmp_path / "a" / "train-000000.tar") as tar:
        keys = [name for name in tar.getnames() if name.endswith(".cls")]
    assert keys != sorted(keys)  # keys count in the folders' order


def test_nothing_is_overwritten(script, data: Path, tmp_path: Path):
    output = tmp_path / "out"
    output.mkdir()
    (output / "mine.txt").write_text("kept")
    done = script("make_shards.py", "--data", data, "--output", output, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.strip() == (
        f"error: --output {output}: is not empty (it holds mine.txt); name another folder or empty this folder"
    )
    assert [path.name for path in output.iterdir()] == ["mine.txt"]


def add_class(data: Path) -> None:
    (data / "val" / "cat").mkdir()
    (data / "val" / "cat" / "0.jpg").touch()


def remove_val(data: Path) -> None:
    (data / "val").rename(data / "test")


def empty_val(data: Path) -> None:
    for path in (data / "val").rglob("*.jpg"):
        path.unlink()


def break_link(data: Path) -> None:
    (data / "train" / "ant" / "gone.jpg").symlink_to(data / "nowhere.jpg")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (add_class, "val/cat: is not one of the 2 classes of"),
        (remove_val, r"has no folder val/ \(existing folders: test/, train/\)"),
        (empty_val, "val: has no images in its class folders"),
        (
            break_link,
            r"train/ant/gone.jpg: cannot be read or written \(No such file or directory\), so no shards were made",
        ),
    ],
)
def test_folders_that_are_not_a_data_set_are_refused(data: Path, tmp_path: Path, spoil, message: str):
    spoil(data)
    with pytest.raises(UserError, match=message):
        make_shards.main(["--data", str(data), "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out" / "shards.json").exists()


def test_files_that_are_no_images_are_counted(data: Path, tmp_path: Path, capsys):
    (data / "train" / "ant" / "notes.txt").touch()
    (data / "train" / "bee" / "deep").mkdir()
    (data / "train" / "bee" / "a.jpg").rename(data / "train" / "bee" / "deep" / "a.jpg")
    make_shards.main(["--data", str(data), "--output", str(tmp_path / "out")])
    assert "train: 7 images in 1 shard; files passed over: 1 .txt" in capsys.readouterr().out


def test_options_are_checked(script, tmp_path: Path):
    done = script("make_shards.py", "--data", "a", "--output", "b", "--shard-size", 0, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, "error: --shard-size 0: must be above 0\n")


def test_a_colon_in_the_output_is_part_of_the_name(script, data: Path, tmp_path: Path):
    """webdataset would run the text after "pipe:" as a command."""
    done = script("make_shards.py", "--data", data, "--output", "pipe:touch ran #", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "ran").exists()
    assert read_index(str(tmp_path / "pipe:touch ran #")).count("train") == 7

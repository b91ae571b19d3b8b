"""A repaired copy of a data set: what has one right repair is repaired, and the original stays as it is."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from conftest import CocoFolder
from PIL import Image

from backbones.errors import UserError
from tools import check_data


def contents(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def faulty(coco: CocoFolder) -> CocoFolder:
    """Every problem that has one right repair, in the training images."""
    for record in coco.data["annotations"]:
        x, y, width, height = record["bbox"]
        record["segmentation"] = [[x, y, x + width, y, x + width, y + height, x, y + height]]
    coco.write()
    coco.data["images"][1].pop("width")
    coco.data["images"][2]["file_name"] = "train2017\\009.jpg"
    first, second, *_ = coco.data["annotations"]
    first["bbox"] = [40, 5, 30, 30]  # 10 pixels beyond the image of 60x40
    first["segmentation"] = first["segmentation"][0]
    del second["area"], second["iscrowd"]
    coco.data["annotations"].append({**coco.data["annotations"][2], "id": 77})
    coco.annotations().write_text(json.dumps(coco.data))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown rotated by 90 degrees
    Image.new("RGB", (40, 60), (200, 0, 0)).save(coco.images() / "011.jpg", exif=exif)
    return coco


def test_what_has_one_right_repair_is_repaired_in_a_copy(
    faulty: CocoFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    before, output = contents(faulty.root), tmp_path / "a b"
    check_data.main(["--data", str(faulty.root), "--fix", str(output)])
    assert contents(faulty.root) == before
    printed = capsys.readouterr().out
    kinds = {
        "clipped boxes", "absent areas", "absent crowd flags", "absent image sizes", "annotations that occurred twice",
        "file names of another system", "flat polygons", "images that EXIF turned",
    }  # fmt: skip
    done = json.loads((output / "repairs.json").read_text())
    assert {repair["kind"] for repair in done} == kinds and len(done) == len(kinds)
    assert all(f"repaired: 1 {kind}" in printed for kind in kinds)
    assert printed.endswith(
        f"next:\n  python tools/check_data.py --data '{output}'\n  python tools/train_det.py --data '{output}'\n"
    )
    data = json.loads((output / "annotations" / "instances_train.json").read_text())
    first, second = data["annotations"][:2]
    assert (first["bbox"], len(first["segmentation"])) == ([40, 5, 20, 30], 1)
    assert (second["area"], second["iscrowd"]) == (64, 0)
    assert [image["file_name"] for image in data["images"]] == ["005.jpg", "007.jpg", "009.jpg", "011.jpg"]
    with Image.open(output / "train" / "011.jpg") as upright:
        assert (upright.size, dict(upright.getexif())) == ((60, 40), {})
    # The copy has no problem left, and no repair either.
    report = check_data.check(check_data.CheckOptions(data=str(output)))
    assert {problem.kind for problem in report.problems} <= {
        "image in both splits",
        "near-equal image",
        "box beside its outline",
    }
    check_data.main(["--data", str(output), "--fix", str(tmp_path / "again")])
    assert "repaired: nothing" in capsys.readouterr().out


def test_an_existing_folder_is_not_overwritten_and_a_broken_box_stays(coco: CocoFolder, tmp_path: Path):
    coco.data["annotations"][0]["bbox"] = [70, 5, 10, 10]  # outside its image: nobody knows what was meant
    root = coco.write()
    check_data.main(["--data", str(root), "--fix", str(tmp_path / "new")])
    data = json.loads((tmp_path / "new" / "annotations" / "instances_train.json").read_text())
    assert data["annotations"][0]["bbox"] == [70, 5, 10, 10]
    with pytest.raises(UserError, match=r"--fix .*new: exists already; name a new folder"):  # before any check
        check_data.main(["--data", "/nonexistent", "--fix", str(tmp_path / "new")])


def test_the_copy_names_the_splits_that_it_lacks_and_how_to_train_on_it(
    coco: CocoFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    root = coco.write()
    (root / "annotations" / "instances_val2017.json").rename(root / "annotations" / "instances_test2017.json")
    coco.images("val").rename(root / "test2017")
    check_data.main(["--data", str(root), "--decode", "false", "--fix", str(tmp_path / "new")])
    printed = capsys.readouterr().out
    assert "splits that the copy lacks: test; name two with --train-split and --val-split" in printed
    assert printed.endswith(f"train_det.py --data {tmp_path / 'new'} --val-fraction 0.2\n")
    for name in ("a", "b"):
        (tmp_path / "classes" / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "classes" / name / f"{name}.png")
    with pytest.raises(UserError, match=r"--fix: repairs data with boxes, and .*classes has no layout of boxes"):
        check_data.main(["--data", str(tmp_path / "classes"), "--fix", str(tmp_path / "other")])

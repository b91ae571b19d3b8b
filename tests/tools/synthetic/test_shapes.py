"""The shapes data set: valid COCO, a pure function of its options, generated once and never left incomplete."""

import hashlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from backbones.errors import UserError
from tools.synthetic import parallel, shapes
from tools.synthetic.drawing import FINE, OUTLINES, VISIBLE_FRACTION, draw_scene
from tools.synthetic.masks import SLIVER, crowd_fields, object_fields

SCRIPT = ROOT / "tools" / "shapes.py"
SMALL = {"train": 6, "val": 3, "size": 64, "seed": 5}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return shapes.prepare(tmp_path_factory.mktemp("cache"), train=300, val=20, size=128, seed=0)


def truth(folder, split="train"):
    return json.loads((folder / "annotations" / f"instances_{split}.json").read_text())


def objects(folder, split="train"):
    return [entry for entry in truth(folder, split)["annotations"] if not entry["iscrowd"]]


def decoded(polygons, *, size, scale=1):
    """Return the mask of the polygons by COCO's own rasteriser, [size * scale, size * scale]."""
    from pycocotools import mask

    scaled = [(np.array(polygon) * scale).tolist() for polygon in polygons]
    return mask.decode(mask.merge(mask.frPyObjects(scaled, size * scale, size * scale)))


def bounds(mask):
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


def digest(folder):
    """Return a hash over the names and bytes of all files."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    pieces = (str(path.relative_to(folder)).encode() + path.read_bytes() for path in files)
    return hashlib.sha256(b"".join(pieces)).hexdigest()


# Validity


def test_every_image_is_there_with_the_size_its_entry_says(dataset):
    import cv2

    for split, count in (("train", 300), ("val", 20)):
        images = truth(dataset, split)["images"]
        assert len(images) == count
        assert {entry["file_name"] for entry in images} == set(os.listdir(dataset / split))
        for entry in images[:10]:
            image = cv2.imread(str(dataset / split / entry["file_name"]))
            assert image.shape == (entry["height"], entry["width"], 3)


def test_ids_are_unique_and_point_to_entries(dataset):
    train, val = truth(dataset), truth(dataset, "val")
    for part in (train, val):
        for key in ("images", "annotations", "categories"):
            ids = [entry["id"] for entry in part[key]]
            assert len(ids) == len(set(ids)) and min(ids) >= 1
        assert {entry["image_id"] for entry in part["annotations"]} <= {entry["id"] for entry in part["images"]}
    assert not {entry["id"] for entry in train["images"]} & {entry["id"] for entry in val["images"]}


def test_categories_follow_the_outlines_and_their_ids_have_gaps():
    assert [category["name"] for category in shapes.CATEGORIES] == list(OUTLINES)
    ids = [category["id"] for category in shapes.CATEGORIES]
    assert ids == sorted(set(ids)) and ids != list(range(ids[0], ids[0] + len(ids)))


def test_box_and_area_are_those_of_the_mask(dataset):
    """At the resolution they were drawn at: boxes within two cells, areas within half a cell of edge."""
    errors = []
    for entry in objects(dataset):
        mask = decoded(entry["segmentation"], size=128, scale=FINE)
        x, y, width, height = entry["bbox"]
        errors.append(np.abs(bounds(mask) / FINE - [x, y, x + width, y + height]).max())
        edge = 2 * (width + height)  # a polygon may differ by half a cell along the whole edge
        assert mask.sum() / FINE**2 == pytest.approx(entry["area"], abs=edge * 0.5 / FINE)
    assert max(errors) <= 2 / FINE and np.mean(errors) < 0.1


def test_polygons_decode_to_the_area_at_the_images_own_resolution(dataset):
    ratios = [decoded(entry["segmentation"], size=128).sum() / entry["area"] for entry in objects(dataset)]
    assert min(ratios) > 0.85 and max(ratios) < 1.15 and abs(np.mean(ratios) - 1) < 0.03


def test_boxes_lie_inside_the_image_and_cover_small_and_medium_ranges(dataset):
    boxes = np.array([entry["bbox"] for entry in objects(dataset)])
    assert (boxes[:, :2] >= 0).all() and (boxes[:, :2] + boxes[:, 2:] <= 128).all() and (boxes[:, 2:] > 2).all()
    areas = np.array([entry["area"] for entry in objects(dataset)])
    assert (areas < 32**2).mean() > 0.1 and (areas > 32**2).mean() > 0.1


def test_crowds_are_run_lengths_that_pycocotools_reads_to_the_pixel(dataset):
    from pycocotools import mask

    crowds = [entry for entry in truth(dataset)["annotations"] if entry["iscrowd"]]
    assert crowds
    for entry in crowds:
        code = mask.frPyObjects(entry["segmentation"], 128, 128)
        assert mask.area(code) == entry["area"]
        assert mask.toBbox(code).tolist() == entry["bbox"]


def test_the_mix_is_as_documented(dataset):
    train = truth(dataset)
    owners = [entry["image_id"] for entry in objects(dataset)]
    per_image = np.array([owners.count(entry["id"]) for entry in train["images"]])
    assert per_image.max() <= 7 and 0.005 < (per_image == 0).mean() < 0.15
    assert {entry["category_id"] for entry in objects(dataset)} == {c["id"] for c in shapes.CATEGORIES}


def test_pycocotools_and_its_mask_reader_accept_the_file(dataset):
    from pycocotools.coco import COCO

    coco = COCO(str(dataset / "annotations" / "instances_val.json"))
    for entry in coco.loadAnns(coco.getAnnIds()):
        assert coco.annToMask(entry).any()


def test_no_object_is_hidden_more_than_the_limit():
    for index in range(60):
        for each in draw_scene(np.random.default_rng([1, index]), 64).objects:
            assert each.visible.sum() >= VISIBLE_FRACTION * each.whole


def test_objects_stand_out_from_what_surrounds_them(dataset):
    """The mean colour of the topmost object differs from the colour around it in nearly all scenes."""
    distances = []
    for index in range(40):
        scene = draw_scene(np.random.default_rng([2, index]), 128)
        for each in scene.objects[-1:]:
            inside = each.visible[::FINE, ::FINE].astype(bool)
            left, top, right, bottom = bounds(inside)
            around = np.zeros_like(inside)
            around[max(top - 2, 0) : bottom + 2, max(left - 2, 0) : right + 2] = True
            around &= ~inside
            distances.append(np.linalg.norm(scene.image[inside].mean(0) - scene.image[around].mean(0)))
    assert np.quantile(distances, 0.1) > 30


# Masks, by hand


def test_a_rectangle_gives_its_box_area_and_corners():
    mask = np.zeros((40, 40), np.uint8)
    mask[8:24, 4:32] = 1  # rows 2..6 and columns 1..8 in pixels of four cells
    fields = object_fields(mask, 4)
    assert fields["bbox"] == [1, 2, 7, 4] and fields["area"] == 28
    (polygon,) = fields["segmentation"]
    assert sorted(zip(polygon[::2], polygon[1::2], strict=True)) == [(1, 2), (1, 6), (8, 2), (8, 6)]


def test_a_mask_at_the_border_reaches_the_border():
    fields = object_fields(np.ones((40, 40), np.uint8), 4)
    assert fields["bbox"] == [0, 0, 10, 10] and fields["area"] == 100


def test_holes_stay_holes_and_islands_become_several_polygons():
    mask = np.zeros((80, 80), np.uint8)
    mask[4:44, 4:44] = 1
    mask[12:20, 12:20] = mask[28:36, 24:32] = 0  # two holes of 2 x 2 pixels
    mask[60:72, 60:72] = 1
    mask[78, 78] = 1  # a sliver, left out
    assert SLIVER > 1 / 16
    fields = object_fields(mask, 4)
    assert len(fields["segmentation"]) == 2
    assert fields["bbox"] == [1, 1, 17, 17]
    again = decoded(fields["segmentation"], size=20, scale=4)
    mask[78, 78] = 0
    assert (again != mask).mean() < 0.01 and not again[14:18, 14:18].any() and not again[30:34, 26:30].any()


def test_run_lengths_of_a_crowd_by_hand():
    mask = np.zeros((3, 4), np.uint8)
    mask[0, 0] = mask[1:, 1] = mask[0, 2] = 1
    fields = crowd_fields(mask, 1)
    # Columns: 1 0 0 | 0 1 1 | 1 0 0 | 0 0 0, so no zero first, then 1, 3, 3 and 5.
    assert fields["segmentation"] == {"counts": [0, 1, 3, 3, 5], "size": [3, 4]}
    assert fields["bbox"] == [0, 0, 3, 3] and fields["area"] == 4


# A pure function of the options, generated once


def test_the_bytes_are_a_function_of_the_options(tmp_path):
    first = digest(shapes.prepare(tmp_path / "a", **SMALL))
    assert digest(shapes.prepare(tmp_path / "b", **SMALL)) == first
    assert digest(shapes.prepare(tmp_path / "b", **{**SMALL, "seed": 6})) != first


def test_more_images_leave_the_first_ones_as_they_are(tmp_path):
    few, many = shapes.prepare(tmp_path, **SMALL), shapes.prepare(tmp_path, **{**SMALL, "train": 9})
    for split in shapes.SPLITS:
        for name in os.listdir(few / split):
            assert (few / split / name).read_bytes() == (many / split / name).read_bytes()
    assert truth(few, "val") == truth(many, "val")


def test_several_workers_write_the_same_bytes_as_one(tmp_path, monkeypatch):
    alone = digest(shapes.prepare(tmp_path / "a", **SMALL))
    monkeypatch.setattr(parallel, "IMAGES_PER_WORKER", 3)
    monkeypatch.setattr(parallel, "cores", lambda: 3)
    monkeypatch.setattr("tools.synthetic.worker.write_images", None)  # this process must not draw any image
    assert digest(shapes.prepare(tmp_path / "b", **SMALL)) == alone


def test_a_second_call_touches_nothing(tmp_path, monkeypatch):
    folder = shapes.prepare(tmp_path, **SMALL)
    monkeypatch.setattr(shapes, "_write", None)
    (tmp_path / f".{folder.name}.lock").unlink()
    assert shapes.prepare(tmp_path, **SMALL) == folder
    assert os.listdir(tmp_path) == [folder.name]  # no lock either, because a cache may be read-only


def _prepare_counted(root, barrier, queue):
    write = shapes._write

    def counted(*args):
        queue.put("written")
        write(*args)

    shapes._write = counted
    barrier.wait()
    shapes.prepare(root, **SMALL)
    queue.put("done")


def test_processes_at_once_generate_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(2), context.Queue()
    processes = [context.Process(target=_prepare_counted, args=(tmp_path, barrier, queue)) for _ in range(2)]
    for process in processes:
        process.start()
    messages = sorted(queue.get(timeout=50) for _ in range(3))
    for process in processes:
        process.join(timeout=50)
    assert messages == ["done", "done", "written"] and [process.exitcode for process in processes] == [0, 0]


def test_the_files_of_a_killed_generation_are_not_used_but_removed(tmp_path):
    options = ["--train", "5000", "--val", "3", "--size", "64", "--seed", "5"]
    environment = {**os.environ, "RESNET_TRANSFER_CACHE": str(tmp_path)}
    victim = subprocess.Popen([sys.executable, SCRIPT, *options], env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 50
    while not list(tmp_path.glob(".*.partial/train/*.jpg")):
        assert victim.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    name = f"shapes-v{shapes.VERSION}-train5000-val3-size64-seed5"
    assert not (tmp_path / name).exists() and list(tmp_path.glob(".*.partial"))
    # The next call removes the incomplete files before it draws. The test replaces the drawing to save time.
    with pytest.raises(RuntimeError, match="drawing"):
        _without_drawing(tmp_path)
    assert not list(tmp_path.glob(".*.partial"))


def _without_drawing(root):
    def refuse(*args):
        raise RuntimeError("drawing")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "_write", refuse)
        shapes.prepare(root, train=5000, val=3, size=64, seed=5)


def test_workers_end_with_their_caller(tmp_path):
    """A worker whose pipe has no reader stops drawing."""
    images = [[0, index, str(tmp_path / f"{index}.jpg")] for index in range(5000)]
    worker = parallel.start_worker({"images": images, "size": 32, "seed": 0})
    worker.stdout.readline()
    worker.stdout.close()
    worker.wait(timeout=30)
    assert len(list(tmp_path.iterdir())) < 5000
    worker.stderr.close()


def test_a_worker_that_fails_is_reported_with_its_reason(tmp_path):
    images = [[0, index, str(tmp_path / "absent" / f"{index}.jpg")] for index in range(4)]
    with pytest.raises(OSError, match=r"absent.*No such file"):
        list(parallel.collect([{"images": images, "size": 32, "seed": 0}], 4))


# Errors


def test_a_damaged_dataset_is_refused_and_named(tmp_path):
    folder = shapes.prepare(tmp_path, **SMALL)
    (folder / "val" / "000001000001.jpg").unlink()
    with pytest.raises(UserError, match=r"seed5: has 2 of 3 images in val; delete it"):
        shapes.prepare(tmp_path, **SMALL)


def test_a_folder_with_files_of_the_user_is_not_changed(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match=r"lacks shapes\.json; delete it .* or name another folder"):
        shapes.generate(tmp_path, **SMALL)
    assert os.listdir(tmp_path) == ["thesis.txt"]


def test_other_shapes_in_the_folder_are_refused(tmp_path):
    shapes.generate(tmp_path / "a", **SMALL)
    with pytest.raises(UserError, match="generated with other options"):
        shapes.generate(tmp_path / "a", **{**SMALL, "seed": 9})


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "a").mkdir()
    assert truth(shapes.generate(tmp_path / "a", **SMALL))["images"]


@pytest.mark.parametrize(
    ("name", "value"), [("train", 0), ("val", -1), ("size", 8), ("size", 5000), ("seed", -3), ("train", 10**7)]
)
def test_impossible_options_are_refused(tmp_path, name, value):
    with pytest.raises(UserError, match=rf"shapes: {name} is {value}; use a value from \d+ to \d+"):
        shapes.prepare(tmp_path, **{**SMALL, name: value})
    assert not os.listdir(tmp_path)


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file.*: cannot be written .*RESNET_TRANSFER_CACHE"):
        shapes.prepare(tmp_path / "file", **SMALL)
    with pytest.raises(UserError, match=r"file: is not a folder; delete it to generate the shapes there, or name"):
        shapes.generate(tmp_path / "file", **SMALL)


def test_the_cache_follows_the_environment(monkeypatch):
    monkeypatch.setenv("RESNET_TRANSFER_CACHE", "/own")
    monkeypatch.setenv("XDG_CACHE_HOME", "/common")
    assert shapes.cache_root() == Path("/own")
    monkeypatch.setenv("RESNET_TRANSFER_CACHE", "")
    assert shapes.cache_root() == Path("/common/resnet-transfer")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert shapes.cache_root() == Path.home() / ".cache" / "resnet-transfer"


# The command


def run_script(tmp_path, *options):
    command = [sys.executable, SCRIPT, "--train", "4", "--val", "2", "--size", "64", *options]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)


def test_the_command_runs_from_any_folder(tmp_path):
    done = run_script(tmp_path, "--output", "here")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "here")
    assert len(truth(tmp_path / "here")["images"]) == 4


def test_a_user_error_is_one_line(tmp_path):
    done = run_script(tmp_path, "--seed", "-1")
    assert done.returncode == 2
    assert done.stderr.startswith("error: shapes: seed is -1") and done.stderr.count("\n") == 1


def test_importing_it_needs_no_torch():
    code = "import sys, tools.shapes; sys.exit(any(name in sys.modules for name in ('torch', 'cv2')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0

"""The ranking command on class folders, boxes and label maps, and its errors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import backbones
from backbones.errors import UserError
from tools import rank_backbones
from tools.experiments.cell_runs import CellRun
from tools.experiments.cells import Cell
from tools.experiments.groups import group_runs
from tools.experiments.tables import write_tables
from tools.experiments.task_comparison import TaskComparison
from tools.ranking.agreement import weighted_tau
from tools.ranking.candidates import Candidate, candidates, identity
from tools.ranking.data import Labelled, fingerprint, open_data
from tools.ranking.extraction import extract
from tools.ranking.outputs import StudyGroup, agree, describe, front, read_study, table, write
from tools.ranking.ranking import Ranked, Ranking
from tools.ranking.remarks import require_classes, width_warnings
from tools.ranking.samples import Estimate, Samples
from tools.runs.metrics import TASK_METRICS

NAMES = "timm/test_resnet,timm/test_efficientnet"  # the smallest nets of timm
COLOURS = ((250, 30, 30), (30, 250, 30), (30, 30, 250))


def paint(path: Path, colour: tuple[int, int, int], box: tuple[int, int, int, int], number: int) -> None:
    pixels = np.random.default_rng(number).integers(80, 120, (48, 64, 3)).astype(np.uint8)
    x, y, w, h = box
    pixels[y : y + h, x : x + w] = colour
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), pixels[..., ::-1])


def class_folders(root: Path) -> Path:
    for number in range(12):
        paint(root / "train" / f"c{number % 3}" / f"{number}.png", COLOURS[number % 3], (0, 0, 64, 48), number)
    return root


def boxes(root: Path) -> Path:
    images, annotations = [], []
    for number in range(8):
        box = (4 * number, 3 * number, 20, 18)
        paint(root / "train" / f"{number}.png", COLOURS[number % 2], box, number)
        images.append({"id": number, "file_name": f"{number}.png", "width": 64, "height": 48})
        record = {"id": number + 1, "image_id": number, "category_id": 1 + number % 2, "bbox": list(box)}
        annotations.append({**record, "area": 360, "iscrowd": 0})
    categories = [{"id": 1, "name": "red"}, {"id": 2, "name": "green"}]
    path = root / "annotations" / "instances_train.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return root


def label_maps(root: Path) -> Path:
    for number in range(4):
        paint(root / "images" / "train" / f"{number}.png", COLOURS[0], (0, 0, 32, 48), number)
        labels = np.zeros((48, 64), np.uint8)
        labels[:, :32] = 1
        (root / "labels" / "train").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / "labels" / "train" / f"{number}.png"), labels)
    (root / "classes.txt").write_text("ground\nred\n")
    return root


@pytest.mark.parametrize(
    ("make", "task", "levels"),
    [(class_folders, "classification", "c4"), (boxes, "detection", "c3,c4"), (label_maps, "segmentation", "c3,c4")],
)
def test_ranks_data_of_every_task(make, task: str, levels: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data, output = make(tmp_path / "data"), tmp_path / "out"
    arguments = ["--data", str(data), "--backbones", NAMES, "--weights", "none", "--size", "64"]
    arguments += ["--levels", f"[{levels}]", "--output", str(output)]
    rank_backbones.main(arguments)
    shown = capsys.readouterr().out
    found = json.loads((output / "ranking.json").read_text())
    assert (found["task"], len(found["ranking"]), found["failed"]) == (task, 2, {})
    first, second = (row["scores"]["logme"]["value"] for row in found["ranking"])
    assert first >= second
    assert shown.startswith((output / "ranking.md").read_text().rstrip())
    assert cv2.imread(str(output / "ranking.png")).shape[1] == 1200
    assert len(list((output / "features").iterdir())) == 2
    with pytest.raises(UserError, match=r"ranking\.json exists already; pass --overwrite"):
        rank_backbones.main(arguments)
    kept = {path: path.stat().st_mtime_ns for path in (output / "features").iterdir()}
    rank_backbones.main([*arguments, "--overwrite"])  # from the kept features
    assert json.loads((output / "ranking.json").read_text()) == found
    assert {path: path.stat().st_mtime_ns for path in (output / "features").iterdir()} == kept


def test_files_that_name_the_images_are_data_too(tmp_path: Path):
    folders = class_folders(tmp_path / "a")
    rows = [f"{path.relative_to(folders)},{path.parent.name}" for path in sorted(folders.rglob("*.png"))]
    (folders / "labels.csv").write_text("\n".join(["image,label", *rows]) + "\n")
    listed = open_data(folders / "labels.csv", 100)
    assert (listed.task, listed.classes, len(listed.names)) == ("classification", ("c0", "c1", "c2"), 12)
    # YOLO's file, beside images/train and labels/train.
    paint(tmp_path / "b" / "images" / "train" / "0.png", COLOURS[0], (0, 0, 32, 48), 0)
    (tmp_path / "b" / "labels" / "train").mkdir(parents=True)
    (tmp_path / "b" / "labels" / "train" / "0.txt").write_text("0 0.25 0.5 0.5 1\n")
    (tmp_path / "b" / "data.yaml").write_text("train: images/train\nval: images/train\nnames: [red]\n")
    boxed = open_data(tmp_path / "b" / "data.yaml", 100)
    assert (boxed.task, boxed.classes, len(boxed.names)) == ("detection", ("background", "red"), 1)


def test_features_are_computed_again_if_labels_or_pixels_change(tmp_path: Path):
    data = boxes(tmp_path)
    seen = {fingerprint(open_data(data, 8))}
    path = data / "annotations" / "instances_train.json"
    path.write_text(path.read_text().replace('"category_id": 2', '"category_id": 1', 1))
    seen.add(fingerprint(open_data(data, 8)))
    paint(data / "train" / "0.png", COLOURS[2], (0, 0, 20, 18), 0)
    seen.add(fingerprint(open_data(data, 8)))
    assert len(seen) == 3 and fingerprint(open_data(data, 8)) in seen


def test_pixels_that_do_not_count_are_named(tmp_path: Path):
    data = label_maps(tmp_path)
    for path in (data / "labels" / "train").iterdir():
        labels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        labels[:24] = 9
        cv2.imwrite(str(path), labels)
    classes = open_data(data, 4, ignore_index=9).read(0).classes
    assert classes is not None and set(np.unique(classes)) == {0, 1, 255}
    with pytest.raises(UserError, match="holds the value 9"):
        open_data(data, 4).read(0)


def test_features_of_boxes_tell_objects_from_background(tmp_path: Path):
    data = open_data(boxes(tmp_path), 100)
    backbone = backbones.build("resnet18", weights=None, features=("c2", "c3"))
    samples = extract(backbone, data, size=64, seed=0).samples
    assert samples.features.shape[1] == 64 + 128
    assert np.bincount(samples.labels).tolist() == [8, 4, 4]  # as many background boxes as objects
    assert samples.deltas is not None and samples.deltas.shape[1] == 4
    # Each level is scaled to unit mean square length.
    for part in np.split(samples.features, [64], axis=1):
        assert (part.astype(np.float64) ** 2).sum(axis=1).mean() == pytest.approx(1, rel=1e-5)
    again = extract(backbone, data, size=64, seed=0).samples
    assert np.array_equal(samples.features, again.features) and np.array_equal(samples.deltas, again.deltas)


def test_images_without_objects_give_background_only(tmp_path: Path):
    class Empty:
        task, names, classes = "detection", ["a.png"], ("background", "bird")

        def read(self, index: int) -> Labelled:
            none = np.zeros((0, 4), np.float32)
            pixels = np.zeros((40, 40, 3), np.uint8)
            return Labelled(pixels, boxes=none, box_labels=np.zeros(0, np.int64), crowd=none)

    backbone = backbones.build("resnet18", weights=None, features=("c2",))
    samples = extract(backbone, Empty(), size=32, seed=0).samples
    assert samples.labels.tolist() == [0] and samples.deltas is None


@pytest.mark.parametrize(
    ("flaw", "error"),
    [
        ("pooled", "tiny: gives [1, 32] as c4 instead of a map [1, 32, 4, 6]; correct forward() or feature_info"),
        ("list", "tiny: gives NoneType as c4 instead of a map [1, 32, 4, 6]"),
        ("nan", "tiny: c4 has values that are not finite; use other weights"),
    ],
)
def test_a_backbone_that_gives_no_map_is_left_out_in_one_line(
    flaw: str, error: str, tiny_backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    flaws = {
        "pooled": lambda maps: {name: each.mean((2, 3)) for name, each in maps.items()},
        "list": lambda maps: list(maps.values()),
        "nan": lambda maps: {name: each / 0 for name, each in maps.items()},
    }
    whole = type(backbones.build(tiny_backbone, weights=None))
    forward = whole.forward
    monkeypatch.setattr(backbones, "build", broken_build(backbones.build, forward, flaws[flaw]))
    data = class_folders(tmp_path / "data")
    arguments = ["--data", str(data), "--backbones", f"{tiny_backbone},timm/test_resnet", "--weights", "none"]
    rank_backbones.main([*arguments, "--size", "64", "--levels", "[c4]", "--output", str(tmp_path / "out")])
    found = json.loads((tmp_path / "out" / "ranking.json").read_text())
    assert [row["backbone"] for row in found["ranking"]] == ["timm/test_resnet"]
    assert found["failed"]["tiny, none"].startswith(error)
    assert f"- tiny, none could not be scored: {error}" in capsys.readouterr().out


def broken_build(build, forward, flaw):
    """Return `backbones.build` with a flaw in the maps that the user's backbone returns."""

    def built(name: str, **options):
        backbone = build(name, **options)
        if name == "tiny":
            backbone.forward = lambda x: flaw(forward(backbone, x))
        return backbone

    return built


def test_lone_classes_and_intervals_without_width_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data = class_folders(tmp_path / "data")
    for path in sorted((data / "train" / "c2").iterdir())[1:]:
        path.unlink()
    arguments = ["--data", str(data), "--backbones", NAMES, "--weights", "none", "--size", "32", "--images", "9"]
    rank_backbones.main([*arguments, "--output", str(tmp_path / "out")])
    lone = "- WARNING: 1 class in a single image (c2): k-NN and linear probe cannot predict them from other images"
    assert lone in capsys.readouterr().out
    assert len(json.loads((tmp_path / "out" / "ranking.json").read_text())["warnings"]) >= 1
    sure, open_ended = Estimate(1.0, 1.0, 1.0), Estimate(0.3, float("nan"), float("nan"))
    assert width_warnings("a", {"logme": open_ended, "probe": sure, "knn": Estimate(0.5, 0.4, 0.6)}) == [
        "WARNING: a: the interval of linear probe has no width, because all images agree",
        "WARNING: a: no interval of LogME, because too few images have labels",
    ]


def test_candidates_are_names_with_starts():
    found = candidates("resnet18, plain18=none,resnet3*", "none,runs/a/model.safetensors")
    assert found == [
        Candidate("resnet18", "none"),
        Candidate("resnet18", "runs/a/model.safetensors"),
        Candidate("plain18", "none"),
        *(
            Candidate(name, start)
            for name in ("resnet32", "resnet34")
            for start in ("none", "runs/a/model.safetensors")
        ),
    ]
    assert (found[1].name, found[1].label) == ("resnet18, runs/a/model.safetensors", "resnet18, a/model.safetensors")


def test_weights_files_of_other_programs_have_a_source(tmp_path: Path):
    state = backbones.build("resnet20", weights=None).state_dict()
    for name in ("R.pth", "moco.pth"):
        torch.save(state, tmp_path / name)
    first, second = (f"{tmp_path / name}" for name in ("R.pth", "moco.pth"))
    names = f"resnet20=none,resnet20={first},resnet20={second}"
    found = candidates(names, "none", f"{first}=simclr")
    assert [each.weights_from for each in found] == [None, "simclr", None]
    assert found[1].name == f"resnet20, {first} from simclr"
    assert found[1].build((), 0).mean == (0, 0, 0) and found[2].build((), 0).mean != (0, 0, 0)
    assert [e.weights_from for e in candidates(names, "none", f"dino,{first}=simclr")] == [None, "simclr", "dino"]
    for text, error in (
        ("nonesuch", "unknown weights_from 'nonesuch'"),
        ("absent.pth=moco", "--weights-from absent.pth=moco: absent.pth is none of the ranked weights"),
    ):
        with pytest.raises(UserError, match=error):
            candidates(names, "none", text)
    with pytest.raises(UserError, match="--weights-from moco: is for weights files of other programs, and none is"):
        candidates("resnet20,resnet32", "none", "moco")


def test_the_code_and_the_weights_of_a_backbone_decide_whether_its_features_are_kept(tmp_path: Path, monkeypatch):
    code = "import torch\nclass Act(torch.nn.Module):\n    def forward(self, x):\n        return x.{}()\n"
    (tmp_path / "edited_act.py").write_text(code.format("relu"))
    monkeypatch.syspath_prepend(tmp_path)
    backbone = backbones.build("timm/test_resnet", weights=None)
    backbone.act = __import__("edited_act").Act()
    first = identity(backbone)
    assert identity(backbone) == first
    (tmp_path / "edited_act.py").write_text(code.format("tanh"))
    assert identity(backbone) != first
    (tmp_path / "edited_act.py").write_text(code.format("relu"))
    next(backbone.parameters()).data.view(-1)[0] += 1
    assert identity(backbone) != first


def test_data_without_two_classes_are_one_line(tmp_path: Path):
    data = class_folders(tmp_path / "data")
    for folder in ("c1", "c2"):
        shutil.rmtree(data / "train" / folder)
    arguments = ["--backbones", NAMES, "--weights", "none", "--size", "32"]
    with pytest.raises(UserError, match="--data: the chosen images show the class c0 alone, and a ranking needs two"):
        rank_backbones.main(["--data", str(data), *arguments, "--output", str(tmp_path / "one")])
    with pytest.raises(UserError, match="show no labelled sample"):
        require_classes(Samples(np.zeros((0, 3)), np.zeros(0, int), np.zeros(0, int)), ("a", "b"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--backbones", "resnet18"], "needs at least two backbones or starts; name more with commas between"),
        (["--backbones", "resnet18,nonesuch"], "--backbones nonesuch: matches no backbone"),
        (["--backbones", NAMES, "--levels", "[c9]"], "no backbone could be scored"),
        (["--backbones", NAMES, "--data", "/nonexistent"], "/nonexistent: no such folder"),
        (
            ["--backbones", NAMES, "--against", "/nonexistent"],
            "--against /nonexistent: cannot be read as table.json of a study (No",
        ),
        (["--backbones", "resnet18=a.pth,resnet34=b.pth"], "or --weights imagenet or --weights none"),
        (["--backbones", NAMES, "--images", "1"], "--images 1: must be above 1"),
    ],
)
def test_wrong_arguments_are_one_line(words: list[str], message: str, tmp_path: Path):
    data = class_folders(tmp_path / "data")
    defaults = ["--data", str(data), "--weights", "none", "--size", "32", "--output", str(tmp_path / "out")]
    with pytest.raises(UserError) as error:
        rank_backbones.main([*defaults, *words])
    assert message in str(error.value) and "\n" not in str(error.value)


def ranked(name: str, score: float, gflops: float) -> Ranked:
    estimate = Estimate(score, score - 0.1, score + 0.1)
    scores = dict.fromkeys(("logme", "probe", "knn"), estimate)
    return Ranked(Candidate(name, "imagenet"), scores, 10**6, gflops, 5.0)


def test_the_pareto_front_has_no_row_that_is_dearer_and_not_better():
    rows = [ranked("a", 0.9, 4), ranked("b", 0.8, 2), ranked("c", 0.7, 3), ranked("d", 0.5, 1)]
    assert front(rows, "logme") == {0, 1, 3}


def test_a_study_is_compared_by_backbone_and_weights(tmp_path: Path):
    ranking = Ranking("logme", [ranked("a", 0.9, 4), ranked("b", 0.8, 2), ranked("c", 0.1, 3)], {"d, none": "broken"})
    assert table(ranking).splitlines()[-1] == "- d, none could not be scored: broken"

    def group(backbone: str, weights: str, mean: float) -> dict[str, object]:
        model = {"backbone": backbone, "weights": weights}
        runs = [{"finished": True}, {"finished": True}]
        metrics = {"AP": {"mean": mean, "std": 1.0}}
        return {"values": {"variant": "any name"}, "model": model, "metrics": metrics, "runs": runs}

    groups = [group("a", "imagenet", 40), group("a", "none", 5), group("b", "imagenet", 30), group("c", "imagenet", 20)]
    groups[2]["values"] = groups[2].pop("model")  # a table of an earlier version
    (tmp_path / "table.json").write_text(json.dumps([{"task": "", "groups": groups, "differences": []}]))
    found = agree(ranking, read_study(tmp_path), seed=0)
    assert (found.tau, found.pairs) == (pytest.approx(1), 3)
    with pytest.raises(UserError, match="has results of 0 of the 1 ranked backbones"):
        agree(Ranking("logme", [ranked("z", 1, 1)], {}), read_study(tmp_path), seed=0)


def test_only_data_on_which_all_models_of_a_study_have_results_are_compared(tmp_path: Path):
    ranking = Ranking("logme", [ranked("a", 0.9, 4), ranked("b", 0.8, 2), ranked("c", 0.1, 3)], {})

    def group(backbone: str, data: str, mean: float | None) -> dict[str, object]:
        model = {"backbone": backbone, "weights": "imagenet"}
        metrics = {"AP": {"mean": mean, "std": None}}
        return {"values": {}, "model": model, "data": {"data": data}, "metrics": metrics, "runs": [{"finished": True}]}

    def study(*groups: dict[str, object]) -> list[StudyGroup]:
        (tmp_path / "table.json").write_text(json.dumps([{"task": "", "groups": groups, "differences": []}]))
        return read_study(tmp_path)

    # Model c is the worst on the easy data, and its run on the hard data failed: its mean would be the best, 60.
    easy = [group("a", "easy", 80), group("b", "easy", 70), group("c", "easy", 60)]
    hard = [group("a", "hard", 20), group("b", "hard", 10), group("c", "hard", None)]
    found = agree(ranking, study(*easy, *hard), seed=0)
    assert (found.tau, found.pairs, found.left_out) == (pytest.approx(1), 3, 2)
    assert "2 results of the study did not count" in describe(found, "logme")
    with pytest.raises(UserError, match="no data on which all of its ranked backbones have results"):
        agree(ranking, study(easy[0], hard[1]), seed=0)


def test_the_model_of_the_smallest_error_is_the_best_of_a_study_of_classifiers(tmp_path: Path):
    metrics = TASK_METRICS["classification"]
    runs = [
        CellRun(
            Cell(name, "train_cls", (), {"backbone": name, "weights": "imagenet"}, {}), tmp_path, {"top1": top1}, []
        )
        for name, top1 in (("a", 0.9), ("b", 0.8), ("c", 0.3))
    ]
    write_tables(tmp_path, [TaskComparison("", metrics, group_runs(runs, ["backbone"]))])
    assert [group.mean for group in read_study(tmp_path)] == pytest.approx([90, 80, 30])
    ranking = Ranking("logme", [ranked("a", 0.9, 4), ranked("b", 0.8, 2), ranked("c", 0.1, 3)], {})
    assert agree(ranking, read_study(tmp_path), seed=0).tau == pytest.approx(1)


def test_equal_results_have_no_tau(tmp_path: Path):
    found = weighted_tau([1, 2], [5, 5], result_errors=[1, 1])
    assert np.isnan([found.tau, found.low, found.high]).all()
    assert "unknown, because all 2 models have the same score or the same result" in describe(found, "logme")
    write(tmp_path, Ranking("logme", [ranked("a", 0.9, 4), ranked("b", 0.8, 2)], {}), {}, found)
    content = json.loads((tmp_path / "ranking.json").read_text(), parse_constant=pytest.fail)
    assert content["agreement"]["tau"] is None

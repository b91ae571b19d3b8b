"""The report's command and its chapters on detection: real runs, known detections, hostile names, mistakes."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from report_runs import Page, detection, detection_run, write_run

from backbones.errors import UserError
from tools import report
from tools.runs.folder import RunFolder, read_runs
from tools.runs.outcomes import BoxPredictions

SHAPES = ROOT / "detection" / "recipes" / "shapes.yaml"
QUICK = ("--config", SHAPES, "--min-size", 64, "--max-size", 64, "--fpn-channels", 32, "--workers", 0, "--epochs", 1)
TINY = ("--limit", 4, "--batch-size", 4, "--proposals", 50)
# On conftest's four images: both objects of 5 (one by a wrong name), the negative 7, beside 9's car, and on a crowd.
KNOWN = [
    detection(5, 18, [10, 5, 20, 30], 0.9),  # the dog
    detection(5, 3, [0, 0, 8, 8], 0.8),  # the brush, taken for a car
    detection(7, 18, [5, 5, 10, 10], 0.7),  # background
    detection(9, 3, [35, 12, 25, 25], 0.6),  # the car, IoU (20 x 18) / (500 + 625 - 360) = 0.47
    detection(9, 3, [2, 2, 10, 10], 0.95),  # within a crowd: does not count
    detection(9, 3, [30, 10, 25, 20], 0.3),  # the car, below the score
]


def run(*words: object) -> None:
    report.main([*map(str, words)])


def page(path: Path) -> Page:
    assert path.is_file()
    return Page(path)


@pytest.fixture
def known(coco, tmp_path: Path) -> Path:
    """A run with the known detections."""
    return detection_run(tmp_path / "runs" / "known", coco.write(), KNOWN)


def test_a_real_run(script, small_shapes: Path, tmp_path: Path):
    trained = script("train_det.py", "--data", small_shapes, *QUICK, *TINY, "--output", "a", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    environment = json.loads((tmp_path / "a" / "results.json").read_text())["environment"]
    assert environment["processes"] == 1 and environment["torch"] and environment["device"]
    done = script("report.py", "a", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == "report of 1 run: a/report.html"
    shown = page(tmp_path / "a" / "report.html")
    for title in (
        "COCO metrics",
        "Precision and recall",
        "Errors by type (TIDE)",
        "Calibration",
        "Worst images",
        "Loss",
    ):
        assert title in shown.text
    results = json.loads((tmp_path / "a" / "results.json").read_text())
    assert shown.table("COCO metrics in percent")[0][1] == f"{100 * results['AP']:.1f}"
    assert ["processes", "1"] in shown.table("Cost and environment")
    assert len(shown.source) < 1_000_000


def test_the_page_needs_nothing_else(known: Path):
    run(known)
    shown = page(known / "report.html")
    links = [
        v for _, attrs in shown.tags for k, v in attrs.items() if k in ("src", "href", "action", "data", "xlink:href")
    ]
    assert links and all(link.startswith(("#", "data:")) for link in links if link)
    assert not re.search(r"url\((?!#)|@import", shown.source)
    ids = [attrs["id"] for _, attrs in shown.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in links if link and link.startswith("#")} <= set(ids)


def test_what_became_of_each_object(known: Path):
    found = BoxPredictions.read(RunFolder.read(known), data=None, score=0.5)
    images = {image.path.name: image for image in found.images}
    counts = [(image.found, image.missed, image.false_positives) for image in images.values()]
    assert counts == [(1, 1, 1), (0, 0, 1), (0, 1, 1), (0, 0, 0)]
    assert [each.cause for each in images["005.jpg"].detections] == ["", "wrong class, brush"]
    assert images["007.jpg"].detections[0].cause == "background"
    by_status = {each.status: each for each in images["009.jpg"].detections}
    assert by_status["false positive"].cause == "poor localization, IoU 0.47" and by_status["ignored"].score == 0.95
    assert [each.status for each in images["011.jpg"].objects] == ["ignored"]
    assert [round(image.f1, 3) for image in images.values()] == [0.5, 0, 0, 1]  # 2 x 1 / (2 x 1 + 1 + 1)


def test_the_tables_tell_the_same(known: Path):
    run(known)
    shown = page(known / "report.html")
    matrix = re.search(r"Objects by class</caption>.*?</table>", shown.source, re.DOTALL)
    assert matrix and re.findall(r'<td class="\w+" style=.*?>(\d+)<', matrix[0]) == [
        *("0", "0", "0", "1"),  # the car: missed
        *("0", "1", "0", "0"),  # the dog: found
        *("1", "0", "0", "0"),  # the brush: taken for a car
        *("1", "1", "0", "0"),  # false positives: a car and a dog on the negative, not the car in the crowd
    ]  # fmt: skip
    assert shown.table("Objects by size") == [["below 32² px", "3", "33.3"], ["from 32² to 96² px", "0", "n/a"],
                                              ["above 96² px", "0", "n/a"]]  # fmt: skip
    assert (
        "Missed objects: the 2 largest of 2" in shown.text
        and "False positives: the 3 most confident of 3" in shown.text
    )
    errors = {row[0]: row[1] for row in shown.table("Errors by type (TIDE)")}
    assert errors["wrong class"] == "1"


def test_comparison(coco, tmp_path: Path):
    root = coco.write()
    first = detection_run(tmp_path / "net-a-1", root, KNOWN)
    better = [*KNOWN[:1], detection(5, 90, [0, 0, 8, 8], 0.8), detection(9, 3, [30, 10, 25, 20], 0.9)]
    other = detection_run(tmp_path / "net-b-1", root, better)
    same = detection_run(tmp_path / "net-c-1", root, KNOWN)
    run(first, other, same, "--bootstrap", 50)
    shown = page(tmp_path / "report.html")
    rows = {row[0]: row for row in shown.table("b against a")}
    assert rows["AP"][3].startswith("+") and "to" in rows["AP"][4]
    for row in shown.table("c against a"):
        assert row[3:] in (["+0.0", "+0.0 to +0.0"], ["n/a", "n/a"])
    assert (
        "b better than a" in shown.text
        and "b worse than a" not in shown.text
        and "The F1 of no image differs" in shown.text
    )
    assert "Options that differ" not in shown.text  # only the output folder does


def test_the_same_data_elsewhere(known: Path, coco, tmp_path: Path):
    moved = tmp_path / "elsewhere"
    shutil.move(coco.root, moved)
    run(known)
    shown = page(known / "report.html")
    assert f"--data {coco.root}: no such folder" in shown.text and "Calibration" not in shown.text
    assert shown.table("AP by class in percent")
    run(known, "--data", moved)
    assert "Calibration" in page(known / "report.html").text


def test_other_data_is_refused_rather_than_reported(known: Path, coco):
    coco.data["images"].append({"id": 12, "file_name": "005.jpg", "width": 60, "height": 40})
    coco.write()
    run(known)
    assert "was evaluated on other data" in page(known / "report.html").text
    coco.data["images"].pop()
    coco.data["annotations"].pop(1)
    coco.write()
    run(known)
    assert "one of the files has changed" in page(known / "report.html").text


HOSTILE = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{ 7 * 7 }} $\\frac{1}{0}$ %s \u202e\x00"]


def test_hostile_names_are_text(coco, tmp_path: Path):
    for category, name in zip(coco.data["categories"], HOSTILE, strict=True):
        category["name"] = name
    folder = detection_run(tmp_path / "<b>run & 'x'", coco.write(), KNOWN)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(
        yaml.safe_dump({**config, "<i>option": "</td></table><script>alert(2)</script>"})
    )
    run(folder)
    shown = page(folder / "report.html")
    assert (shown.count("script"), shown.count("b"), shown.count("i")) == (1, 0, 0)
    assert not any(key.startswith("on") for _, attrs in shown.tags for key in attrs)
    assert all(name.strip("\x00") in shown.text.replace("\N{REPLACEMENT CHARACTER}", "") for name in HOSTILE[:2])
    assert "{{ 7 * 7 }}" in shown.text and "49 $" not in shown.text
    policy = next(attrs["content"] for tag, attrs in shown.tags if tag == "meta" and "http-equiv" in attrs)
    assert policy and policy.startswith("default-src 'none'") and "sha256-" in policy


def test_only_its_own_page_is_replaced(known: Path, tmp_path: Path):
    run(known)
    run(known)  # its own
    other = shutil.copytree(known, tmp_path / "runs" / "other")
    run(other)  # which moved along
    (known / "report.html").write_text("precious")
    with pytest.raises(UserError, match="is not a report of these runs"):
        run(known)
    run(known, "--overwrite")
    named = tmp_path / "named.html"
    run(known, "--output", named)
    with pytest.raises(UserError, match="exists already; name another file"):
        run(known, "--output", named)
    run(known, other)
    third = shutil.copytree(known, tmp_path / "runs" / "third")
    with pytest.raises(UserError, match="is not a report of these runs"):
        run(known, third)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name one run folder"),
        (["absent"], "absent: no such folder"),
        (["empty"], "empty: is not a run folder"),
        (["foreign"], "does not hold the options of a training run"),
        (["unfinished"], "unfinished: has no results.json"),
        (["torn"], "not a JSON file"),
        (["odd"], "does not hold the results of a run"),
        (["known", "known/"], "is named twice"),
        (["known", "cls"], "is a classification run, known a detection run"),
        (["known", "elsewhere"], "was evaluated on other images or classes"),
        (["known", "--output", "gone/x.html"], "its folder does not exist"),
        (["known", "--output", "empty"], "is a folder"),
        (["known", "--score", "2"], "must be 0 to 1"),
        (["known", "--no-such", "2"], "no_such"),
    ],
)
def test_mistakes(known: Path, coco, tmp_path: Path, monkeypatch, words: list[str], message: str):
    runs = known.parent
    monkeypatch.chdir(runs)
    for name in ("empty", "foreign", "unfinished", "torn", "odd"):
        (runs / name).mkdir()
    (runs / "foreign" / "config.yaml").write_text("- a list")
    for name in ("unfinished", "torn", "odd"):
        shutil.copy(known / "config.yaml", runs / name)
    (runs / "torn" / "results.json").write_text("{")
    (runs / "odd" / "results.json").write_text("[]")
    write_run(runs / "cls", {"test_crops": "center"}, {"images": 4, "per_class": {}})
    coco.data["annotations"].pop(0)
    coco.root = tmp_path / "other"
    detection_run(runs / "elsewhere", coco.write(), KNOWN)
    with pytest.raises(UserError, match=re.escape(message)) as error:
        run(*words)
    assert "\n" not in str(error.value)
    assert not list(runs.rglob("report.html"))


def test_a_mistake_takes_one_line_and_status_2(script, tmp_path: Path):
    done = script("report.py", "absent", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: absent: no such folder; name a run folder, such as runs/det-20260101-120000\n"


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["x/run"], ["run"]),
        (["x/weights_none-seed0", "x/weights_r18_seed0-seed0"], ["none", "r18_seed0"]),
        (["a/run", "b/run"], ["a", "b"]),
        (["det-20260101-120000", "det-20260102-120000"], ["20260101", "20260102"]),
        (["net", "net-b"], ["net", "net-b"]),
        (["resnet18", "resnet34"], ["resnet18", "resnet34"]),
    ],
)
def test_names_tell_runs_apart(known: Path, tmp_path: Path, folders: list[str], names: list[str]):
    paths = [shutil.copytree(known, tmp_path / folder) for folder in folders]
    assert [each.name for each in read_runs([str(path) for path in paths])] == names


def test_a_run_finds_its_data_from_another_folder(known: Path, coco, tmp_path: Path, monkeypatch):
    """Paths of config.yaml count from where the run was started: its own folder ends with `output`."""
    config = yaml.safe_load((known / "config.yaml").read_text())
    config |= {"data": coco.root.name, "output": "runs/known"}
    (known / "config.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.chdir("/")
    assert len(BoxPredictions.read(RunFolder.read(known), data=None, score=0.5).images) == 4

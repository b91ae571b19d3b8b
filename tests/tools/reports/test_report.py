"""The report's command and its chapters on detection: real runs, known_run detections, hostile names, mistakes."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from report_page import Page
from run_folders import KNOWN, detection, detection_run, write_run

from backbones.errors import UserError
from tools import report

QUICK = ("--recipe", "shapes", "--min-size", 64, "--max-size", 64, "--fpn-channels", 32, "--workers", 0, "--epochs", 1)
TINY = ("--backbone", "timm/test_resnet", "--limit", 4, "--batch-size", 4, "--proposals", 50)


def run(*words: object) -> None:
    report.main([*map(str, words)])


def page(path: Path) -> Page:
    assert path.is_file()
    return Page(path)


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


def test_the_page_needs_nothing_else(known_run: Path):
    run(known_run)
    shown = page(known_run / "report.html")
    links = [
        v for _, attrs in shown.tags for k, v in attrs.items() if k in ("src", "href", "action", "data", "xlink:href")
    ]
    assert links and all(link.startswith(("#", "data:")) for link in links if link)
    assert not re.search(r"url\((?!#)|@import", shown.source)
    ids = [attrs["id"] for _, attrs in shown.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in links if link and link.startswith("#")} <= set(ids)


def test_the_tables_tell_the_same(known_run: Path):
    run(known_run)
    shown = page(known_run / "report.html")
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


def test_the_same_data_elsewhere(known_run: Path, coco, tmp_path: Path):
    moved = tmp_path / "elsewhere"
    shutil.move(coco.root, moved)
    run(known_run)
    shown = page(known_run / "report.html")
    assert f"--data {coco.root}: no such folder" in shown.text and "Calibration" not in shown.text
    assert shown.table("AP by class in percent")
    run(known_run, "--data", moved)
    assert "Calibration" in page(known_run / "report.html").text


def test_other_data_is_refused_rather_than_reported(known_run: Path, coco):
    coco.data["images"].append({"id": 12, "file_name": "005.jpg", "width": 60, "height": 40})
    coco.write()
    run(known_run)
    assert "was evaluated on other data" in page(known_run / "report.html").text
    coco.data["images"].pop()
    coco.data["annotations"].pop(1)
    coco.write()
    run(known_run)
    assert "one of the files has changed" in page(known_run / "report.html").text


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


def test_only_its_own_page_is_replaced(known_run: Path, tmp_path: Path):
    run(known_run)
    run(known_run)  # its own
    other = shutil.copytree(known_run, tmp_path / "runs" / "other")
    run(other)  # which moved along
    (known_run / "report.html").write_text("precious")
    with pytest.raises(UserError, match="is not a report of these runs"):
        run(known_run)
    run(known_run, "--overwrite")
    named = tmp_path / "named.html"
    run(known_run, "--output", named)
    with pytest.raises(UserError, match="exists already; name another file"):
        run(known_run, "--output", named)
    run(known_run, other)
    third = shutil.copytree(known_run, tmp_path / "runs" / "third")
    with pytest.raises(UserError, match="is not a report of these runs"):
        run(known_run, third)


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
        (["known", "cls"], "is a classification run, but known is a detection run"),
        (["known", "elsewhere"], "was evaluated on other images or classes"),
        (["known", "--output", "gone/x.html"], "its folder does not exist"),
        (["known", "--output", "empty"], "is a folder"),
        (["known", "--score", "2"], "must be 0 to 1"),
        (["known", "--data", "gone"], "--data gone: no such folder; check the path, or leave the option out"),
        (["known", "--no-such", "2"], "--no-such"),
    ],
)
def test_user_errors(known_run: Path, coco, tmp_path: Path, monkeypatch, words: list[str], message: str):
    runs = known_run.parent
    monkeypatch.chdir(runs)
    for name in ("empty", "foreign", "unfinished", "torn", "odd"):
        (runs / name).mkdir()
    (runs / "foreign" / "config.yaml").write_text("- a list")
    for name in ("unfinished", "torn", "odd"):
        shutil.copy(known_run / "config.yaml", runs / name)
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


def test_a_user_error_prints_one_line_and_ends_with_status_2(script, tmp_path: Path):
    done = script("report.py", "absent", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: absent: no such folder; name a run folder, such as runs/det-20260101-120000\n"

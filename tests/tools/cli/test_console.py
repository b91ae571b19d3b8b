"""The console command: sub-commands are the scripts, packaged files have names, shells complete, the wheel is whole."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT

import backbones
from backbones.errors import UserError
from tools import train_det
from tools.cli import console, packaged
from tools.cli.examples import examples_of
from tools.cli.parsing import options_of_command
from tools.tasks.options import TrainDetectorOptions


def test_every_script_is_a_sub_command():
    scripts = {path.stem for path in (ROOT / "tools").glob("*.py")} - {"__init__"}
    assert sorted(console.SUBCOMMANDS.values()) == sorted(scripts)


@pytest.mark.parametrize("script", console.SUBCOMMANDS.values())
def test_every_command_has_examples(script: str):
    docstring = ast.get_docstring(ast.parse((ROOT / "tools" / f"{script}.py").read_text()), clean=False) or ""
    assert examples_of(docstring.partition("\n\n")[2])


def test_the_help_lists_the_commands_with_their_first_lines(capsys: pytest.CaptureFixture):
    console.main([])
    whole = capsys.readouterr().out
    assert f"  eval               {_first_line('eval_coco')}" in whole.splitlines()
    assert [words for words in console.SUBCOMMANDS if f"\n  {words} " not in whole] == []
    console.main(["train", "--help"])
    group = capsys.readouterr().out
    assert "train det" in group and "predict" not in group


def _first_line(script: str) -> str:
    return (ROOT / "tools" / f"{script}.py").read_text(encoding="utf-8").splitlines()[0].strip('"')


def test_a_sub_command_is_the_script(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["resnet-transfer", "train", "det", "--config", "shapes", "--print_config"])
    with pytest.raises(SystemExit):
        console.main()
    printed = capsys.readouterr().out
    with pytest.raises(SystemExit):
        train_det.main(["--config", str(ROOT / "detection/recipes/shapes.yaml"), "--print_config"])
    assert printed == capsys.readouterr().out and "min_size: 128\n" in printed
    with pytest.raises(SystemExit):
        console.main(["train", "det", "--help"])
    assert capsys.readouterr().out.startswith("usage: resnet-transfer train det [")
    with pytest.raises(SystemExit):
        console.main(["benchmark", "detect", "--help"])
    assert capsys.readouterr().out.startswith("usage: resnet-transfer benchmark detect [OPTIONS]")


@pytest.mark.parametrize(
    "words, message",
    [
        (["trian", "det"], "trian: is not a command; name one of: train det, "),
        (["trian"], "trian: is not a command; name one of: train cls, train det, train seg; see"),
        (["predcit", "--run", "x"], "predcit: is not a command; name one of: predict; see"),
        (["train", "dte"], "train dte: is not a command; name one of: train cls, train det, train seg"),
        (["hub", "push"], "^--repo: missing; add it to the command line; see --help$"),
        (["hub"], "^COMMAND, --repo: missing; add them to the command line; see --help$"),
        (["completion", "fish"], "^SHELL fish: expected one of bash, zsh, tcsh; see --help$"),
        (["data"], "data: is not a command; name one of: data shapes"),
    ],
)
def test_a_wrong_command_line_names_what_is_missing(words: list[str], message: str):
    with pytest.raises(UserError, match=message):
        console.main(words)


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture):
    console.main(["--version"])
    assert capsys.readouterr().out == f"resnet-transfer {backbones.__version__}\n"
    assert f"\nversion: {backbones.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {backbones.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_packaged_files_are_listed_and_named_without_their_folder(capsys: pytest.CaptureFixture, tmp_path: Path):
    console.main(["--list"])
    listed = capsys.readouterr().out
    for path in packaged.packaged("experiments") + packaged.packaged("recipes"):
        assert re.search(rf"^  {path.stem} +\S.*[.?:]$", listed, re.M), path  # whole sentences
    for words in (["compare", "--list"], ["train", "seg", "--list"]):
        with pytest.raises(SystemExit):
            console.main(words)
    out = capsys.readouterr().out
    assert "  transfer " in out and "recipes of segmentation" in out and "recipes of detection" not in out
    transfer = ROOT / "detection" / "experiments" / "transfer.yaml"
    for name in ("transfer", "transfer.yaml", "detection/experiments/transfer.yaml"):
        assert packaged.experiment_file(name) == transfer or Path(name).samefile(transfer)
    own = tmp_path / "transfer.yaml"
    own.write_text("")
    assert packaged.experiment_file(str(own)) == own
    with pytest.raises(UserError, match=r"trnsfer: is neither a file nor a packaged experiment; .*: transfer;"):
        packaged.experiment_file("trnsfer")


def test_the_options_of_a_command_are_known_without_running_it():
    assert options_of_command(train_det.main) is TrainDetectorOptions


def test_a_shell_completes_commands_options_and_values(capsys: pytest.CaptureFixture):
    pytest.importorskip("shtab")
    if shutil.which("bash") is None:
        pytest.skip("needs bash")
    console.main(["completion", "bash"])
    ask = 'COMP_WORDS=({}); COMP_CWORD=$((${{#COMP_WORDS[@]}}-1)); _shtab_resnet_transfer; echo "${{COMPREPLY[@]}}"\n'
    typed = ["train de", "train det --batch-", "predict --precision ''", "compare tran", "benchmark cl", "hub pu"]
    typed += ["train cls --backbone resnet15", "train det --neck ''", "train seg --head dil", "backbones plain1"]
    typed += ["check --layout vo"]
    asked = capsys.readouterr().out + "".join(ask.format(f"resnet-transfer {words}") for words in typed)
    done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True)
    completed = ["det", "--batch-size", "auto fp32 bf16 fp16", "transfer", "classify", "push pull"]
    completed += ["resnet152", "fpn c4 dc5", "dilated", "plain18 plain110", "voc voc-xml"]
    assert done.stdout.splitlines() == completed


def test_a_distribution_holds_its_tests_and_runs_the_quickstart_away_from_the_sources(tmp_path: Path):
    """The source distribution, the wheel made from it, and the first commands of GETTING_STARTED with that wheel."""
    source, target, away = tmp_path / "source", tmp_path / "target", tmp_path / "away"
    ignored = shutil.ignore_patterns(
        ".git", ".venv", "*.egg-info", "build", "dist", ".*_cache", "__pycache__", ".hypothesis"
    )
    shutil.copytree(
        ROOT, source, ignore=lambda at, names: {*ignored(at, names), *(["runs"] if at == str(ROOT) else [])}
    )
    build = "from setuptools import build_meta as b; import sys; print(getattr(b, sys.argv[1])('..'))"
    _python("-c", build, "build_sdist", cwd=source)
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as file:
        file.extractall(tmp_path, filter="data")
    unpacked = tmp_path / sdist.name.removesuffix(".tar.gz")
    own = {path.relative_to(source) for path in source.rglob("*") if path.is_file() and "egg-info" not in str(path)}
    assert [str(path) for path in sorted(own) if not (unpacked / path).is_file() and path.name != ".gitignore"] == []

    _python("-c", build, "build_wheel", cwd=unpacked)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(target)
    assert (target / "backbones" / "weights" / "timm_imagenet.csv").is_file()
    entry = next(target.glob("*.dist-info")) / "entry_points.txt"
    assert "resnet-transfer = tools.cli.console:start" in entry.read_text()
    (away / "photos").mkdir(parents=True)
    cv2.imwrite(str(away / "photos" / "a.jpg"), np.full((64, 64, 3), 128, np.uint8))
    commands = re.findall(r"^    resnet-transfer (.*)$", _section("Quickstart"), re.M)
    assert len(commands) >= 4
    words = [[*shlex.split(line), *_smaller(line)] for line in commands]
    run = f"import sys; sys.path[0] = {str(target)!r}\nfrom tools.cli import console\n"
    run += f"assert console.__file__.startswith({str(target)!r})\n"
    run += "".join(f"console.main({each})\n" for each in words)
    # An installation of the sources must not stand in for what the wheel lacks.
    run += "own = ('backbones', 'classification', 'detection', 'segmentation', 'tools')\n"
    run += "files = [m.__file__ for name, m in sys.modules.items() if name.partition('.')[0] in own and m.__file__]\n"
    run += f"assert [file for file in files if not file.startswith({str(target)!r})] == []\n"
    _python("-c", run, cwd=away)
    assert (away / "runs/first/report.html").is_file() and (away / "predictions/predictions.json").is_file()


def _section(title: str) -> str:
    page = (ROOT / "docs" / "GETTING_STARTED.md").read_text(encoding="utf-8")
    return page.partition(f"## {title}\n")[2].partition("\n## ")[0]


def _smaller(line: str) -> list[str]:
    """Options that make a command of the page quick."""
    if line.startswith("train"):
        return ["--epochs", "1", "--limit", "4", "--workers", "0"]
    return ["--train", "8", "--val", "4"] if line.startswith("data shapes") else []


def _python(*words: str, cwd: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *words], cwd=cwd, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-1000:]

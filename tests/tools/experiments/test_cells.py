"""The cells of an experiment: combinations, names of folders, and how far each is."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from backbones.errors import UserError
from tools.experiments.cells import folder_part, make_cells
from tools.experiments.jobs import environment, threads
from tools.experiments.plan import Plan, matrix_of, read_plans, to_arguments, value_name
from tools.experiments.state import clear_leftovers, read_state


def plan(*matrices: dict, options: dict | None = None) -> Plan:
    return Plan("train_det", to_arguments(options or {}), tuple(matrix_of(each, "matrix") for each in matrices))


def test_a_matrix_and_further_runs_make_each_cell_once():
    made = plan({"seed": [0, 1], "backbone": ["resnet18"]}, {"backbone": ["resnet18", "resnet34"], "seed": [1]})
    assert made.axes() == ["backbone", "seed"]
    assert [cell.name for cell in make_cells(made)] == ["resnet18-seed0", "resnet18-seed1", "resnet34-seed1"]


def test_values_reach_the_script_as_their_own_types():
    options = {"milestones": [0.5, 0.75], "limit": None, "epochs": 7, "evaluator": "pycocotools"}
    (cell,) = make_cells(plan({"backbone": ["resnet34"], "lr": [0.05]}, options=options))
    wanted = {**options, "backbone": "resnet34", "lr": 0.05, "weights": "none"}  # the recipe's weights
    assert {name: cell.config[name] for name in wanted} == wanted


def test_an_axis_wins_over_the_common_options():
    assert [cell.config["epochs"] for cell in make_cells(plan({"epochs": [2, 3]}, options={"epochs": 9}))] == [2, 3]


def test_values_may_have_names_and_stand_for_one_another():
    weights = {"random": "none", "ours": "runs/{backbone}-seed0/model.safetensors"}
    made = make_cells(plan({"backbone": ["resnet18", "plain18"], "weights": weights}))
    assert [cell.name for cell in made][:2] == ["resnet18-weights_random", "resnet18-weights_ours"]
    assert made[3].config["weights"] == "runs/plain18-seed0/model.safetensors"
    assert made[3].labels == {"backbone": "plain18", "weights": "ours"}


def test_equal_steps_pass_over_a_share_of_the_data_more_often():
    options = {"epochs": 6, "eval_every": 3}
    matrices = (matrix_of({"fraction": [0.25, 1.0]}, "matrix"),)
    quarter, whole = make_cells(Plan("train_det", to_arguments(options), matrices, equal_steps=True))
    assert (quarter.config["epochs"], quarter.config["eval_every"]) == (24, 12)
    assert (whole.config["epochs"], whole.config["eval_every"]) == (6, 3)


def test_tasks_add_to_what_is_said_of_all(tmp_path: Path):
    file = tmp_path / "e.yaml"
    boxes = {"script": "train_det", "options": {"epochs": 3}, "runs": [{"backbone": ["resnet34"]}]}
    areas = {"script": "train_seg", "matrix": {"head": ["fcn8s"]}}
    common = {"options": {"epochs": 2, "workers": 0}, "matrix": {"backbone": ["resnet18"], "seed": [0, 1]}}
    file.write_text(yaml.safe_dump({"tasks": {"boxes": boxes, "areas": areas}, **common}, sort_keys=False))
    first, second = read_plans(file, ["train_det", "train_seg"])
    made = make_cells(first)
    assert [cell.name for cell in made] == ["boxes-resnet18-seed0", "boxes-resnet18-seed1", "boxes-resnet34"]
    assert (made[0].script, made[0].config["epochs"], made[0].config["workers"]) == ("train_det", 3, 0)
    assert [cell.name for cell in make_cells(second)] == [f"areas-resnet18-head_fcn8s-seed{seed}" for seed in (0, 1)]


@pytest.mark.parametrize(
    ("option", "value", "name"),
    [
        ("backbone", "timm/resnet18.a1_in1k", "timm_resnet18.a1_in1k"),
        ("seed", 3, "seed3"),
        ("lr", 0.05, "lr0.05"),
        ("limit", None, "limit_null"),
        ("shortcut", "A", "shortcut_A"),
        ("weights", "runs/cls-1/model.safetensors", "weights_cls_1"),
        ("weights", "runs/cls-1/checkpoint/best.safetensors", "weights_cls_1"),
        ("weights", "nets/r18.pth", "weights_r18"),
        ("milestones", [0.5, 0.75], "milestones0.5_0.75"),
    ],
)
def test_names_of_folders_are_readable_and_safe(option: str, value, name: str):
    made = folder_part(option, value_name(value))
    assert made == name
    assert not set(made) & set('/\\:*?"<>| -')


@pytest.fixture
def cell_and_folder(tmp_path: Path):
    (cell,) = make_cells(plan({"backbone": ["resnet18"]}))
    folder = tmp_path / cell.name
    folder.mkdir()
    return cell, folder


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_states_of_a_folder(cell_and_folder):
    cell, folder = cell_and_folder
    assert read_state(cell, folder.with_name("absent")) == read_state(cell, folder) == "begin"
    (folder / "config.yaml").write_text(yaml.safe_dump({**cell.config, "output": "elsewhere", "workers": 3}))
    assert read_state(cell, folder) == "begin"
    touch(folder, "metrics.jsonl", "checkpoint/last.safetensors")
    assert read_state(cell, folder) == "resume"
    touch(folder, "results.json")
    assert read_state(cell, folder) == "done"


def test_what_a_killed_start_left_is_cleared(cell_and_folder):
    cell, folder = cell_and_folder
    (folder / "config.yaml").write_text(yaml.safe_dump(cell.config))
    touch(folder, "tensorboard/events.out.tfevents.1", "checkpoint/.last.safetensors.tmp", ".config.yaml.tmp")
    assert read_state(cell, folder) == "begin"
    clear_leftovers(folder)
    assert [path for path in folder.rglob("*") if path.is_file()] == []


def test_files_of_somebody_else_are_kept(cell_and_folder):
    cell, folder = cell_and_folder
    (folder / "config.yaml").write_text(yaml.safe_dump(cell.config))
    touch(folder, "thesis.tex")
    with pytest.raises(UserError, match=r"holds thesis\.tex but no run that can be continued; move the folder away"):
        read_state(cell, folder)
    assert (folder / "thesis.tex").exists()


def test_a_run_of_other_options_is_refused(cell_and_folder):
    cell, folder = cell_and_folder
    (folder / "config.yaml").write_text(yaml.safe_dump({**cell.config, "batch_size": 2}))
    wanted = r"made with --batch-size 2, but the experiment says 8"  # the recipe of the built-in shapes
    with pytest.raises(UserError, match=wanted):
        read_state(cell, folder)


@pytest.mark.parametrize("text", ["- a list", "a: [", ""])
def test_a_config_that_is_none_is_refused(cell_and_folder, text: str):
    cell, folder = cell_and_folder
    (folder / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"config\.yaml: .*move the run folder away"):
        read_state(cell, folder)


def test_jobs_share_cores_and_devices(cell_and_folder, monkeypatch):
    cell, _ = cell_and_folder
    monkeypatch.setattr("tools.experiments.jobs.cores", lambda: 6)
    assert (threads(cell, 1), threads(cell, 2), threads(cell, 8)) == (None, 3, 1)  # 6 / 2; never below 1
    cell.config["threads"] = 5
    assert (threads(cell, 1), threads(cell, 2)) == (5, 5)
    assert environment(0, 1, None) == {}
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    taken = [environment(slot, 3, 2) for slot in range(3)]
    assert taken[1] == {"OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": "6"}
    assert [extra["CUDA_VISIBLE_DEVICES"] for extra in taken] == ["4", "6", "4"]


def test_a_variant_sets_several_options(tmp_path: Path):
    file = tmp_path / "e.yaml"
    starts = {"random": {"weights": "none", "base_lr": 0.003}, "ours": {"weights": "runs/{backbone}.safetensors"}}
    matrix = {"variant": starts, "backbone": ["resnet18"], "seed": [0, 1]}
    file.write_text(
        yaml.safe_dump({"script": "train_det", "options": {"base_lr": 0.001}, "matrix": matrix}, sort_keys=False)
    )
    (made,) = read_plans(file, ["train_det"])
    cells = make_cells(made)
    assert [cell.name for cell in cells][1:3] == ["variant_random-resnet18-seed1", "variant_ours-resnet18-seed0"]
    assert [cell.config["base_lr"] for cell in cells] == [0.003, 0.003, 0.001, 0.001]
    assert [cell.config["weights"] for cell in cells[::2]] == ["none", "runs/resnet18.safetensors"]
    assert cells[0].labels == {"variant": "random", "backbone": "resnet18", "seed": "0"}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([{"variant": {"a": 3}}], "runs[0]: variant a: is 3; write the options that it sets"),
        ([{"variant": ["a"]}], "runs[0]: variant a: is 'a'; write"),
        ([{"variant": {"a": {"lr": 1}}, "lr": [2]}], "variant a: sets lr, which is an axis itself"),
        ([{"variant": {"a": {}}}, {"lr": [2]}], "runs[1]: names no variant, but runs[0] does"),
        ([{"variant": {"a": {"wrong": 1}}}], "runs[0]: wrong is not an option of train_det"),
        ([{"variant": {"a": {"output": "x"}}}], "option output; leave this option out"),
    ],
)
def test_variants_that_cannot_be_meant_are_refused(entries: list[dict], message: str, tmp_path: Path):
    file = tmp_path / "e.yaml"
    file.write_text(yaml.safe_dump({"script": "train_det", "runs": entries}))
    with pytest.raises(UserError) as error:
        read_plans(file, ["train_det"])
    assert message in str(error.value)

"""Damaged and doctored checkpoints and configurations: each means something definite, or is refused in one line.

`HOSTILE_SCALE=67 python -m pytest tests/test_mutants.py` tries 67 times as many of each kind, at random.
"""

from __future__ import annotations

import itertools
import json
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from backbones.errors import UserError
from tools.cli.parsing import parse, to_dict
from tools.engine import checkpoint
from tools.engine.cost import versions
from tools.engine.experiment import Experiment
from tools.engine.loop import train_epoch
from tools.engine.options import RunOptions, TrainOptions
from tools.engine.random_states import random_state
from tools.engine.run_folder import LAST
from tools.experiments.plan import read_plans
from tools.tasks.options import COMMANDS

CPU = torch.device("cpu")
SCALE = int(os.environ.get("HOSTILE_SCALE", 1))
mutants = settings(
    max_examples=60 * SCALE,
    derandomize=SCALE == 1,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
# What somebody might write in the place of a value.
STRANGE = st.one_of(
    # Runs flush numbers below 1e-38 to zero, which st.floats() takes for a broken machine.
    st.none(), st.booleans(), st.integers(), st.integers(-3, 20), st.floats(allow_subnormal=False), st.text(max_size=5),
    st.sampled_from([[], {}, (), 10**400, -1, "nan", torch.zeros(0), torch.ones(3), torch.tensor(1), [torch.zeros(2)]]),
)  # fmt: skip


class Net(nn.Module):
    """Two layers and a norm; the loss draws noise, as samplers do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)

    def forward(self, images: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (self.norm(self.conv(images)).mean() - torch.rand(1) + targets.mean()).square().mean()}


def experiment(folder: Path, optimizer: str, *, resume: bool) -> tuple[Experiment, Callable[[], Any]]:
    """A run of the net, and what starts or resumes its training."""
    train = TrainOptions(epochs=3, batch_size=2, optimizer=optimizer, lr=0.01, ema=0.9, precision="fp32")
    config = {"epochs": 3, "optimizer": optimizer, "milestones": (0.5, 0.9), "data": None}
    run = Experiment(
        folder, CPU, train, RunOptions(resume=resume), config, {"classes": ["a", "b"], "input": {"mean": [0.5]}}
    )
    torch.manual_seed(0)
    return run, lambda: run.training(Net(), steps_per_epoch=4)


def steps(training: Any, count: int) -> None:
    torch.manual_seed(1)
    batches = [(torch.rand(2, 2, 5, 5), torch.zeros(2)) for _ in range(count)]
    for _ in train_epoch(training, batches):
        pass


def good(folder: Path, optimizer: str) -> dict[str, Any]:
    """The state of a run after two steps, as its checkpoint holds it."""
    run, begin = experiment(folder, optimizer, resume=False)
    training = begin()
    steps(training, 2)
    return {
        "training": training.state_dict(), "random": [random_state(CPU)], "config": run.config, "meta": run.meta,
        "versions": versions(),
    }  # fmt: skip


OPTIMIZERS = ("momentum", "adamw", "lamb")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run folder with a good checkpoint by each kind of optimizer."""
    found = {}
    for name in OPTIMIZERS:
        found[name] = tmp_path_factory.mktemp(name)
        checkpoint.save(found[name] / LAST, good(found[name], name))
    return found


def resumed(folder: Path, optimizer: str) -> Any:
    """The training that a checkpoint is resumed to, after one more step; None where it was refused in one line."""
    try:
        training = experiment(folder, optimizer, resume=True)[1]()
        steps(training, 1)
    except UserError as error:
        assert "\n" not in str(error) and str(error)
        return None
    return training


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_good_checkpoint_is_taken(folders, optimizer: str):
    training = resumed(folders[optimizer], optimizer)
    assert (training.step, training.epoch_step) == (3, 3)
    assert all(parameter.isfinite().all() for parameter in training.model.parameters())


def bytes_of(draw: st.DrawFn, content: bytes) -> bytes:
    """A file with a few changes: bits, a piece cut out or doubled, an end that is missing."""
    changed = bytearray(content)
    # Half of the places in the header, which is a hundredth of the file.
    place = st.one_of(st.integers(0, len(content) - 1), st.integers(0, min(3000, len(content) - 1)))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(place) % max(1, len(changed))
        kind = draw(st.sampled_from(["bit", "cut", "drop", "double", "byte"]))
        if kind == "bit" and changed:
            changed[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "byte" and changed:
            changed[at] = draw(st.integers(0, 255))
        elif kind == "cut":
            del changed[at:]
        elif kind == "drop":
            del changed[at : at + draw(st.integers(1, 50))]
        else:
            changed[at:at] = changed[at : at + draw(st.integers(1, 50))]
    return bytes(changed)


@mutants
@given(data=st.data())
def test_a_damaged_checkpoint_is_the_good_one_or_refused(folders, data):
    source = folders["adamw"]
    content = (source / LAST).read_bytes()
    changed = bytes_of(data.draw, content)
    hurt = source / "hurt" / LAST
    hurt.parent.mkdir(parents=True, exist_ok=True)
    hurt.write_bytes(changed)
    training = resumed(source / "hurt", "adamw")
    if training is not None:
        same = resumed(source, "adamw")
        assert repr(training.state_dict()) == repr(same.state_dict())


def header_of(draw: st.DrawFn, content: bytes) -> bytes:
    """A file whose header, JSON behind eight bytes of its length, was edited by somebody who keeps the length right."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    entries = header["__metadata__"] if draw(st.booleans()) else header
    key = draw(st.sampled_from(sorted(entries)))
    kind = draw(st.sampled_from(["drop", "text", "rename", "swap", "strange", "edit"]))
    if kind == "drop":
        del entries[key]
    elif kind == "rename":
        entries[draw(st.text(max_size=5))] = entries.pop(key)
    elif kind == "swap":
        other = draw(st.sampled_from(sorted(entries)))
        entries[key], entries[other] = entries[other], entries[key]
    elif kind == "edit" and isinstance(entries[key], dict):
        entries[key][draw(st.sampled_from(["dtype", "shape", "data_offsets"]))] = draw(
            st.sampled_from(["F64", "I8", [2], [1, 3], [0, 4], [8, 4], [2**63], None, "x"])
        )
    else:
        entries[key] = draw(st.one_of(st.text(max_size=5), st.integers(), st.just("[" * 5000), st.none()))
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


@mutants
@given(data=st.data())
def test_an_edited_header_is_the_good_one_or_refused(folders, data):
    source = folders["momentum"]
    changed = header_of(data.draw, (source / LAST).read_bytes())
    hurt = source / "hurt" / LAST
    hurt.parent.mkdir(parents=True, exist_ok=True)
    hurt.write_bytes(changed)
    training = resumed(source / "hurt", "momentum")
    if training is not None:
        assert repr(training.state_dict()) == repr(resumed(source, "momentum").state_dict())


def paths(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Return the paths to the values of a tree, branches included."""
    if path:
        yield path
    inside = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, (list, tuple)) else ()
    for key, value in inside:
        yield from paths(value, (*path, key))


def changed_at(tree: Any, path: tuple[Any, ...], change: Callable[[Any, Any], Any]) -> Any:
    """A tree whose branch that holds the end of a path is `change(branch, key)`."""
    if len(path) == 1:
        return change(tree, path[0])
    branch = changed_at(tree[path[0]], path[1:], change)
    if isinstance(tree, dict):
        return {key: branch if key == path[0] else value for key, value in tree.items()}
    return type(tree)(branch if place == path[0] else value for place, value in enumerate(tree))


def replaced(branch: Any, key: Any, value: Any) -> Any:
    if isinstance(branch, dict):
        return {name: value if name == key else old for name, old in branch.items()}
    return type(branch)(value if place == key else old for place, old in enumerate(branch))


def without(branch: Any, key: Any) -> Any:
    if isinstance(branch, dict):
        return {name: old for name, old in branch.items() if name != key}
    return type(branch)(old for place, old in enumerate(branch) if place != key)


@mutants
@given(data=st.data())
def test_a_doctored_tree_under_a_true_checksum_makes_a_step_or_is_refused(folders, data):
    """Whoever computes the checksum anew is no accident; what is wrong is found before it reaches a kernel."""
    optimizer = data.draw(st.sampled_from(OPTIMIZERS))
    tree = checkpoint.load(folders[optimizer] / LAST)
    path = data.draw(st.sampled_from(sorted(paths(tree), key=repr)))
    kind = data.draw(st.sampled_from(["strange", "drop", "swap", "more"]))
    if kind == "drop":
        tree = changed_at(tree, path, without)
    elif kind == "more" and len(path) > 1:
        strange, name = data.draw(STRANGE), data.draw(st.text(max_size=3))
        tree = changed_at(tree, path, lambda b, _: {**b, name: strange} if isinstance(b, dict) else [*b, strange])
    else:
        value = data.draw(STRANGE)
        if kind == "swap":
            value = tree
            for key in data.draw(st.sampled_from(sorted(paths(tree), key=repr))):
                value = value[key]
        tree = changed_at(tree, path, lambda branch, key: replaced(branch, key, value))
    hurt = folders[optimizer] / "doctored"
    tensors: dict[str, torch.Tensor] = {}
    text = json.dumps(checkpoint._pack(tree, tensors))
    header = {"format": checkpoint.FORMAT, "tree": text, "sha256": checkpoint._digest(text, tensors)}
    (hurt / LAST).parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, hurt / LAST, metadata=header)
    training = resumed(hurt, optimizer)
    if training is not None:
        assert training.step == 3
        for parameter, own in zip(training.model.parameters(), Net().parameters()):
            assert (parameter.shape, parameter.dtype) == (own.shape, own.dtype)


# What YAML, numbers and people stumble over.
TOKENS = (
    "null", "true", "~", "[]", "{}", "[1, 2]", "{a: 1}", "- 1", ": ", "  ", "\t", "&a", "*a", "!!python/name:os.system",
    "!!int", "|", ">", "'", '"', "#", "---", "...", "%", "@", "`", "0x10", "1e400", "-1", ".nan", ".inf", "1_000", "é",
    "\x00", "\ufeff", "<<: *a", "? a", "config: other.yaml", "print_config: true", "help: true", "seed: 3", "08",
    "9" * 400, "[" * 200, "1e5", "2020-01-01", "yes", "no", "class_path: os.system",
)  # fmt: skip


def text_of(draw: st.DrawFn, text: str) -> str:
    """A configuration with a few changes: of characters, of values, of lines."""
    lines = text.splitlines()
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(lines) - 1))
        kind = draw(st.sampled_from(["value", "value", "insert", "drop", "double", "character", "indent"]))
        name, _, value = lines[at].partition(":")
        token = draw(st.one_of(st.sampled_from(TOKENS), st.text(max_size=4)))
        if kind == "value":
            lines[at] = f"{name}: {token}"
        elif kind == "insert":
            lines.insert(at, token)
        elif kind == "drop" and len(lines) > 1:
            del lines[at]
        elif kind == "double":
            lines.insert(at, f"{name}: {draw(st.sampled_from(['1', 'x', value]))}")
        elif kind == "character" and lines[at]:
            place = draw(st.integers(0, len(lines[at]) - 1))
            lines[at] = lines[at][:place] + draw(st.characters()) + lines[at][place + 1 :]
        else:
            lines[at] = " " * draw(st.integers(1, 3)) + lines[at]
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], Path]:
    """A good configuration of each script, as run folders hold it, and a place for mutants."""
    found = {}
    for name, command in COMMANDS.items():
        values = to_dict(parse(command.options, description="", argv=["--data=somewhere"]))
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
        found[name] = yaml.safe_dump(plain, sort_keys=False)
    return found, tmp_path_factory.mktemp("configs") / "mutant.yaml"


@settings(mutants, max_examples=30 * SCALE)  # each is parsed twice by a large parser
@given(data=st.data())
def test_a_changed_configuration_means_what_it_says_or_is_refused(configs, data):
    texts, path = configs
    name = data.draw(st.sampled_from(sorted(COMMANDS)))
    path.write_text(text_of(data.draw, texts[name]), encoding="utf-8", errors="surrogatepass")
    options = COMMANDS[name].options
    try:
        taken = to_dict(parse(options, description="", argv=[f"--config={path}"]))
    except UserError as error:
        assert "\n" not in str(error) and str(error)
        return
    # What was taken is what the file says, and reads back as itself.
    said = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert {key: _plain(taken[key]) for key in said if key in taken} == {
        key: _like(_plain(taken[key]), value) for key, value in said.items() if key in taken
    }
    path.write_text(yaml.safe_dump({key: _plain(value) for key, value in taken.items()}), encoding="utf-8")
    assert to_dict(parse(options, description="", argv=[f"--config={path}"])) == taken


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _like(taken: Any, said: Any) -> Any:
    """Return the value of a file in the type that an option has: 1 for 1.0, "7" for text."""
    if isinstance(taken, str) and not isinstance(said, str):
        return taken  # a name that looks like a number is a name
    if isinstance(taken, list):
        return [_like(one, other) for one, other in itertools.zip_longest(taken, said)]
    return type(taken)(said) if type(taken) in (int, float) and not isinstance(said, bool) else said


EXPERIMENT = """script: train_cls
options: {data: cifar10, epochs: 30}
matrix: {backbone: [plain20, plain56], seed: [0, 1]}
runs:
  - {backbone: [resnet20, resnet56]}
"""
STUDY = """equal_steps: true
options: {workers: 1}
matrix: {weights: {random: none, ours: "runs/{backbone}.pth"}, fraction: [0.25, 1.0]}
tasks:
  first: {script: train_cls, options: {data: cifar10}, matrix: {backbone: [resnet20]}}
  second: {script: train_cls, runs: [{backbone: resnet18, seed: [0]}]}
"""


@mutants
@given(data=st.data())
def test_a_changed_experiment_is_a_plan_or_refused(tmp_path_factory, data):
    path = Path(tmp_path_factory.getbasetemp()) / "experiment.yaml"
    text = text_of(data.draw, data.draw(st.sampled_from([EXPERIMENT, STUDY])))
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        plans = read_plans(path, ["train_cls"])
    except UserError as error:
        assert "\n" not in str(error) and str(error)
        return
    assert plans
    for plan in plans:
        assert plan.script == "train_cls" and plan.matrices
        assert all(isinstance(word, str) and word.startswith("--") for word in plan.arguments)

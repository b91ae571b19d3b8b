"""Stages of the backbone: learning rates that decay towards the stem, and frozen ones that thaw by epoch."""

from __future__ import annotations

import itertools
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Group
from test_resume import ended, log_all, require_equal, signal_at
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

import backbones
import classification
import detection
import segmentation
from backbones.fold import Folds
from tools import train_cls, train_det, train_seg
from tools.cli import ending, parsing
from tools.engine import checkpoint
from tools.engine.optim import build_optimizer, build_schedule, rate_rows
from tools.engine.options import TrainOptions
from tools.engine.run_folder import LAST
from tools.engine.stages import Thawing, stage_depths
from tools.tasks.options import TrainDetectorOptions, detector_recipe

NETS = {
    "classifier": lambda: classification.build("resnet18", 3),
    "fpn": lambda: detection.build("resnet18", 3, fpn_channels=16, head_channels=16),
    "c4": lambda: detection.build("resnet18", 3, neck="c4"),
    "segmenter": lambda: segmentation.build("resnet18", 3, head="fcn8s"),
}


def rates(net: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """The learning rate of each parameter by name, each in one group."""
    names = {parameter: name for name, parameter in net.named_parameters()}
    found = [(names[p], group["lr"]) for group in optimizer.param_groups for p in group["params"]]
    assert len(found) == len(dict(found))
    return dict(found)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("kind", NETS)
def test_rates_halve_from_stage_to_stage(kind: str) -> None:
    """Heads 1, layer4 1/2, ..., the stem 1/32 of the scheduled rate; C4's layer4 lies in the RoI head."""
    net = NETS[kind]()
    options = TrainOptions(lr=0.1, layer_decay=0.5, schedule="cosine", warmup=0.1, batch_size=2)
    optimizer = build_optimizer(net, options)
    schedule = build_schedule(optimizer, options, 100)
    plain = build_optimizer(NETS[kind](), TrainOptions(lr=0.1, batch_size=2))
    expected = build_schedule(plain, options, 100)
    for step in (0, 3, 10, 57):
        schedule.step_update(step), expected.step_update(step)
        whole = plain.param_groups[0]["lr"]
        assert optimizer.param_groups[0]["lr"] == whole  # the rate that is logged
        found = rates(net, optimizer)
        assert found.keys() == dict(net.named_parameters()).keys()
        for name, rate in found.items():
            depth = next((6 - 1 - i for i in range(1, 5) if f"layer{i}." in name), 0)
            depth = 1 if "box_head.stage" in name else 5 if "conv1" in name and "layer" not in name else depth
            if name.endswith(("body.bn1.weight", "body.bn1.bias", "backbone.bn1.weight", "backbone.bn1.bias")):
                depth = 5
            assert rate == pytest.approx(whole / 2**depth), name


@pytest.mark.usefixtures("narrow")
def test_biases_and_norm_keep_no_weight_decay() -> None:
    net = NETS["fpn"]()
    optimizer = build_optimizer(net, TrainOptions(lr=0.1, layer_decay=0.5, weight_decay=0.01))
    for group in optimizer.param_groups:
        assert {p.ndim > 1 for p in group["params"]} == {group["weight_decay"] == 0.01}
    plain = build_optimizer(net, TrainOptions(lr=0.1))
    assert [set(group) & {"lr_scale"} for group in plain.param_groups] == [set(), set()]


@pytest.mark.parametrize(
    ("net", "stem", "head"),
    [
        (lambda: classification.build("timm/test_resnet", 3), "backbone.net.conv1.0.weight", "backbone.net.fc.weight"),
        (lambda: classification.build("torchvision/resnet18", 3), "backbone.net.conv1.weight", "backbone.net.fc.bias"),
        (lambda: detection.build("timm/test_convnext", 3, fpn_channels=16), "body.net.stem_0.weight", "rpn.head"),
        (lambda: detection.build("timm/test_resnet", 3, neck="c4"), "body.net.conv1.0.weight", "box_predictor"),
        (lambda: segmentation.build("torchvision/vgg11", 3, head="fcn8s"), "net.features.0.weight", "classifier."),
    ],
)
def test_nets_of_other_libraries_decay_as_well(net: Any, stem: str, head: str) -> None:
    behind = stage_depths(built := net())
    found = {name: behind.get(parameter, 0) for name, parameter in built.named_parameters()}
    assert set(found.values()) | {1} == set(range(max(found.values()) + 1))  # VGG's last stage is a pool
    assert [depth for name, depth in found.items() if stem in name] == [max(found.values())]
    assert {depth for name, depth in found.items() if head in name} == {0}


@pytest.mark.usefixtures("narrow")
def test_the_plan_says_rates_and_what_is_frozen() -> None:
    net = NETS["fpn"]()
    assert "stages" not in rate_rows(net, TrainOptions(lr=0.1, epochs=9))
    options = TrainOptions(lr=0.1, epochs=9, layer_decay=0.5, thaw=[2, 4])
    net.freeze_stages(4)
    assert rate_rows(net, options)["stages"] == (
        "heads 0.1, stage 4 0.05, stage 3 0.025 after epoch 2, stage 2 0.0125 after epoch 4, "
        "stage 1 frozen, stem frozen"
    )


@pytest.mark.usefixtures("narrow")
def test_thawed_stages_train_and_their_batch_norm_stays_frozen() -> None:
    net = backbones.build("resnet18", weights=None)
    net.layer2[0].conv1.weight.requires_grad_(False)  # not by freezing: stays
    net.freeze_stages(5)
    norms = [module for module in net.modules() if isinstance(module, FrozenBatchNorm2d)]
    for n, training in ((3, "layer3 layer4"), (1, "layer1 layer2 layer3 layer4"), (4, "layer4")):
        net.freeze_stages(n)
        parts = {name.split(".")[0] for name, p in net.named_parameters() if p.requires_grad}
        assert (parts, net.frozen_stages) == (set(training.split()), n)
        assert [module for module in net.modules() if isinstance(module, FrozenBatchNorm2d)] == norms
        assert len(norms) == 20 and not net.layer2[0].conv1.weight.requires_grad


def test_what_thaws_is_a_function_of_the_epoch() -> None:
    net = NETS["classifier"]()
    net.backbone.freeze_stages(5)
    thawing = Thawing(net, [2, 2, 4])
    for epoch, frozen in ((0, 5), (1, 5), (2, 3), (3, 3), (4, 2), (9, 2), (0, 5)):
        before = net.backbone.frozen_stages
        assert thawing.set_epoch(epoch) == (before != frozen)
        assert net.backbone.frozen_stages == frozen
        waiting = set().union(*(layer.parameters() for layer in list(net.backbone._layers().values())[1 : frozen - 1]))
        assert thawing.still_frozen(epoch) == waiting


@pytest.mark.usefixtures("narrow")
def test_thawed_weights_are_folded_anew() -> None:
    net = backbones.build("resnet18", weights=None).eval()
    net.freeze_stages(5)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad(), Folds():
        before = net(x)["c5"]
    net.freeze_stages(4)
    net(x)["c5"].square().mean().backward()
    build_optimizer(net, TrainOptions(lr=1.0)).step()
    with torch.no_grad(), Folds():
        after = net(x)["c5"]
    assert not torch.equal(before, after)
    assert torch.equal(after, net(x)["c5"].detach())


# Whatever could move a weight that rests: weight decay, momentum, moving averages, accumulated batches.
COMMON = ("--freeze", 3, "--thaw", "[1, 2]", "--epochs", 3, "--workers", 0, "--checkpoint-every", 1, "--batch-size", 4,
          "--keep-checkpoints", 99, "--ema", 0.5, "--accumulate", 2, "--weight-decay", 0.1, "--threads", 1)  # fmt: skip
BACKBONE = "timm/test_resnet"  # four stages, half a million weights
TASKS: dict[str, tuple[Any, tuple[Any, ...], str]] = {
    "cls": (train_cls.main, ("--recipe", "cifar", "--limit", 12), "backbone.net."),
    "det": (train_det.main, ("--min-size", 64, "--max-size", 64, "--fpn-channels", 16, "--head-channels", 16,
                             "--proposals", 50, "--limit", 12), "backbone.body.net."),
    "seg": (train_seg.main, ("--recipe", "shapes", "--crop-size", 48, "--max-stride", 32, "--limit", 12),
            "backbone.net."),
}  # fmt: skip


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ResNet that counts as pretrained."""
    path = tmp_path_factory.mktemp("weights") / "net.pth"
    torch.manual_seed(0)
    torch.save(backbones.build(BACKBONE, weights=None).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 training pictures of three classes."""
    from conftest import write_classes

    root = tmp_path_factory.mktemp("data") / "pictures"
    write_classes(root, count=4)
    return root


@pytest.fixture(scope="module")
def words(pictures: Path, small_shapes: Path, weights: Path) -> Any:
    def of(task: str) -> tuple[Any, ...]:
        data = pictures if task == "cls" else small_shapes
        return "--data", data, "--backbone", BACKBONE, "--weights", weights, *TASKS[task][1], *COMMON

    return of


@pytest.fixture(scope="module")
def straight(words: Any, launch: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The finished run of a task that nothing disturbed; each is trained once."""
    folder = tmp_path_factory.mktemp("straight")

    def of(task: str) -> Path:
        if not (folder / task).exists():
            given = (*words(task), "--deterministic", "--output", task)
            ended(launch(f"train_{task}.py", *given, cwd=folder, first=log_all))
        return folder / task

    return of


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor], prefix: str) -> set[str]:
    """The parts of the backbone whose convolutions changed."""
    names = [name for name in before if name.startswith(prefix) and before[name].ndim == 4]
    return {name.removeprefix(prefix).split(".")[0] for name in names if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("task", TASKS)
def test_frozen_stages_do_not_move_until_their_epoch_and_move_after_it(task: str, straight: Any) -> None:
    """Three steps an epoch; each step's checkpoint is looked at, weights and moving average."""
    prefix = TASKS[task][2]
    folder = (straight(task) / LAST).parent
    states = {(s := checkpoint.load(file)["training"])["step"]: s for file in folder.glob("last*.safetensors")}
    assert sorted(states) == list(range(10))
    for step, later in itertools.pairwise(range(10)):
        expected = {"layer2", "layer3", "layer4"} | ({"layer1"} if later > 6 else set())
        expected -= {"layer2"} if later <= 3 else set()
        for kind in ("model", "ema"):
            assert moved(states[step][kind], states[later][kind], prefix) == expected, (step, kind)


@pytest.mark.parametrize(("task", "steps"), [("cls", (2, 4)), ("det", (3, 5)), ("seg", (4, 8))])
def test_a_run_killed_around_a_thaw_and_resumed_ends_with_the_bits_of_the_straight_one(
    launch: Any, words: Any, straight: Any, tmp_path: Path, task: str, steps: tuple[int, int]
) -> None:
    """Before a thaw, at its epoch's end, just behind it and later: three steps an epoch, each with a checkpoint."""
    script = f"train_{task}.py"
    first = *words(task), "--deterministic", "--output", "killed"
    done = 0
    for step in steps:
        given = first if done == 0 else ("--resume", "--output", "killed")
        status, _, errors = launch(
            script, *given, cwd=tmp_path, first=partial(signal_at, step - done, signal.SIGKILL)
        ).end()
        assert status == -signal.SIGKILL, errors
        done = step - 1
        assert checkpoint.load(tmp_path / "killed" / LAST)["training"]["step"] == done
    ended(launch(script, "--resume", "--output", "killed", cwd=tmp_path, first=log_all))
    require_equal(straight(task), tmp_path / "killed")


def test_two_processes_thaw_as_one_does(group: Group, words: Any, weights: Path, tmp_path: Path) -> None:
    """Batch norm frozen, so that losses are sums over images; the same images move the same weights."""
    common = (*words("cls"), "--norm", "frozen", "--precision", "fp32", "--lr", 0.05, "--schedule", "constant")
    train_cls.main([*map(str, (*common, "--output", tmp_path / "one"))])
    for status, _, errors in group("train_cls.py", *common, "--output", "two", cwds=[tmp_path, tmp_path]):
        assert status == 0, errors
    one, two = (checkpoint.load(tmp_path / name / LAST)["training"] for name in ("one", "two"))
    assert one["step"] == two["step"] == 9
    begin = {f"backbone.{name}": value for name, value in torch.load(weights).items()}
    for name in ("net.conv1.0", "net.layer1.0.conv1", "net.layer2.0.conv1", "net.layer4.0.conv2"):
        before, alone, together = (state[f"backbone.{name}.weight"] for state in (begin, one["model"], two["model"]))
        assert (together - alone).norm() <= 0.01 * (alone - before).norm()  # gradients of half the images: as large


MISTAKES = {
    "nothing frozen": (("--freeze", 0, "--thaw", "[1]"), "--thaw [1]: no stage is frozen; give --freeze as well"),
    "more than frozen": (("--freeze", 2, "--thaw", "[1, 1, 2]"), "thaws 3 stages, but --freeze freezes 2"),
    "falling": (("--freeze", 2, "--thaw", "[2, 1]"), "--thaw [2, 1]: must be epochs in rising order"),
    "beyond the run": (
        ("--freeze", 2, "--thaw", "[1, 3]"),
        "--thaw [1, 3]: must be epochs before the last one: 1 to 2",
    ),
    "before it": (("--freeze", 2, "--thaw", "[0]"), "--thaw [0]: must be epochs before the last one"),
    "no decay": (("--layer-decay", 0), "--layer-decay 0.0: must be above 0 and at most 1"),
    "growth": (("--layer-decay", 1.5), "--layer-decay 1.5: must be above 0 and at most 1"),
}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_get_one_line(capsys: Any, words: Any, tmp_path: Path, task: str, mistake: str) -> None:
    more, said = MISTAKES[mistake]
    given = [*map(str, (*words(task), "--thaw", "[]", *more, "--output", tmp_path / "run"))]
    with pytest.raises(SystemExit) as end:
        ending.run(lambda: TASKS[task][0](given))
    errors = capsys.readouterr().err
    assert end.value.code == 2 and "Traceback" not in errors
    assert [said in line for line in errors.splitlines() if line.startswith("error: ")] == [True]


def test_a_detector_of_weights_freezes_two_stages_by_itself(words: Any) -> None:
    given = [*map(str, words("det")), "--recipe", "coco"]
    place = given.index("--freeze")
    options = parsing.parse(
        TrainDetectorOptions, description="", argv=given[:place] + given[place + 2 :], recipe=detector_recipe
    )
    assert options.model.freeze is None and options.train.thaw == [1, 2]

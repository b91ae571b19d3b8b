"""Gradients and weights that are not finite: they reach neither weights nor checkpoints, and the run can go on."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import CIFAR
from safetensors.torch import load_file
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from classification.model import Classifier
from tools import train_cls
from tools.cli import ending
from tools.engine import checkpoint, optim
from tools.engine.loop import train_epoch
from tools.engine.nonfinite import NonFiniteError, require_finite_weights
from tools.engine.options import TrainOptions
from tools.engine.run_folder import LAST
from tools.engine.state import Precision, Training
from tools.synthetic.crops import prepare

CPU = torch.device("cpu")


class Root(nn.Module):
    """The loss is |w| as sqrt(w^2), which is finite at w = 0 and has no gradient there: 0 / 0."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([value]))

    def forward(self, images: Tensor, targets: object) -> dict[str, Tensor]:
        return {"root": self.w.square().sqrt().mean() * images.mean()}


def made(value: float, dtype: torch.dtype = torch.float32) -> Training:
    options, model = TrainOptions(lr=0.01, schedule="constant", warmup=0, momentum=0), Root(value)
    optimizer = optim.build_optimizer(model, options)
    schedule = optim.build_schedule(optimizer, options, 100)
    return Training(model, optimizer, schedule, Precision(CPU, dtype), ema=ModelEmaV3(model, decay=0.5))


def batches(*values: float) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    return iter([(torch.tensor([float(value)]), {"index": torch.tensor([7])}) for value in values])


@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_gradient_that_is_not_finite_stops_before_weights_and_average_change(clip_norm: float, accumulate: int):
    training = made(0.0)
    with pytest.raises(
        NonFiniteError, match=r"the gradient is not finite at step 1 of process 0: root 0; .*\[7\]"
    ) as e:
        list(train_epoch(training, batches(1, 1), accumulate=accumulate, clip_norm=clip_norm))
    assert (training.model.w.item(), training.ema.module.w.item(), training.step) == (0, 0, 0)
    assert e.value.reports and e.value.evidence["images"].tolist() == [1]


def test_fp16_leaves_steps_out_while_its_scale_falls_and_stops_where_it_falls_below_one():
    """A gradient of 1 overflows fp16 at the first scale, 65536, and not at the second, 32768: w = 1 - 0.01."""
    training = made(1.0, torch.float16)
    training.model.forward = lambda images, targets: {"half": (training.model.w.half() * images.half()).float().mean()}
    list(train_epoch(training, batches(1, 1)))
    assert (training.step, training.precision.scaler.get_scale()) == (2, 32768)
    assert training.model.w.item() == pytest.approx(0.99)
    never = made(0.0, torch.float16)
    with pytest.raises(NonFiniteError, match="the gradient is not finite at step 18"):  # 65536 is 2^16
        list(train_epoch(never, batches(*[1.0] * 40)))
    assert never.model.w.item() == 0


def test_every_part_of_a_training_is_checked_before_it_is_saved():
    state = {"model": {"w": torch.zeros(2), "count": torch.tensor(3)}, "ema": None, "moments": [torch.zeros(2)], "n": 1}
    require_finite_weights(state, step=3)
    state["moments"][0][1] = float("inf")
    with pytest.raises(
        NonFiniteError, match=r"^moments\.0 is not finite after step 3, so it is not saved; try a lower"
    ):
        require_finite_weights(state, step=3)


@pytest.fixture
def spoiled(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], None]:
    """Spoil the gradient of the n-th pass, but not its loss; None spoils none."""
    losses = Classifier.losses

    def spoil(at: int | None) -> None:
        taken = itertools.count(1)

        def spoiled_losses(*given: Any) -> dict[str, Tensor]:
            (loss,) = losses(*given).values()
            if next(taken) in (at, None if at is None else at + 1) and loss.requires_grad:  # the next pass repeats it
                loss.register_hook(lambda gradient: gradient * float("nan"))
            return {"loss_cls": loss}

        monkeypatch.setattr(Classifier, "losses", spoiled_losses)

    return spoil


def status(*words: object) -> int | str | None:
    try:
        ending.run(lambda: train_cls.main([*map(str, words)]))
    except SystemExit as ended:
        return ended.code
    return 0


def start(tmp_path: Path) -> tuple[object, ...]:
    """Words of a short run with a checkpoint after each second."""
    data = prepare(tmp_path, train=6, val=3, size=32)
    return ("--data", data, *CIFAR, "--batch-size", 2, "--epochs", 1, "--workers", 0,
            "--threads", 1, "--checkpoint-every", 2, "--ema", 0.5, "--output", tmp_path / "run")  # fmt: skip


def test_a_run_that_stopped_there_goes_on_with_a_lower_learning_rate_and_records_it(
    tmp_path: Path, spoiled: Callable[[int | None], None], capsys: pytest.CaptureFixture[str]
):
    run, words = tmp_path / "run", start(tmp_path)
    spoiled(4)
    assert status(*words) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "the gradient is not finite at step 4 of process 0: loss_cls " in line
    assert f"; go on from the last checkpoint with --resume --output {run} --lr LOWER; find the cause with" in line
    assert checkpoint.load(run / LAST)["training"]["step"] == 2
    spoiled(None)
    again = ("--resume", "--output", run)
    assert status(*again, "--seed", 5) == 2 and "options contradict" in capsys.readouterr().err
    assert status(*again, "--lr", 0.001) == 0
    assert f"--lr was None, is now 0.001; {run / 'history.jsonl'} records the change" in capsys.readouterr().out
    assert yaml.safe_load((run / "config.yaml").read_text())["lr"] == 0.001
    (change,) = json.loads((run / "results.json").read_text())["options_changed"]
    assert change == {"step": 2, "options": {"lr": [None, 0.001]}}
    assert status(*again) == 0  # with the new rate
    assert status(*again, "--lr", 0.1) == 2  # the stop lies behind the checkpoint
    assert "--lr was 0.001, now 0.1" in capsys.readouterr().err
    assert all(tensor.isfinite().all() for tensor in load_file(run / "model.safetensors").values())


def test_a_checkpoint_that_is_not_finite_is_passed_over_on_resume_and_the_rate_may_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """As earlier versions left them: the newest one holds a NaN, the one before it is healthy."""
    run = tmp_path / "run"
    assert status(*start(tmp_path)) == 0
    state = checkpoint.load(run / LAST)
    next(iter(state["training"]["ema"].values()))[0] = float("nan")
    checkpoint.save(run / LAST, state)
    capsys.readouterr()
    assert status("--resume", "--output", run, "--lr", 0.001) == 0
    warning = capsys.readouterr().err
    assert f"warning: {run / LAST}: training.ema." in warning
    assert " is not finite; continuing from last-1.safetensors, which is older" in warning
    assert all(tensor.isfinite().all() for tensor in load_file(run / "model.safetensors").values())


def test_weights_that_overflow_in_a_step_are_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """A finite gradient times a finite rate may overflow; running statistics may as well."""
    from tools.engine import loop

    update, words = loop.update_weights, start(tmp_path)

    def overflow(training: Training, **options: Any) -> None:
        update(training, **options)
        if training.step == 6:
            next(training.evaluated.parameters()).data.fill_(float("inf"))

    monkeypatch.setattr(loop, "update_weights", overflow)
    assert status(*words) == 2
    assert " is not finite after step 6, so it is not saved; try a lower --lr" in capsys.readouterr().err
    assert checkpoint.load(tmp_path / "run" / LAST)["training"]["step"] == 4
    assert not (tmp_path / "run" / "model.safetensors").exists()

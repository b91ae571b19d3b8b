"""The loops, the schedule and the optimizer, on a model small enough to compute by hand."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tolerances import rounding
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from backbones.common.precision import precision_dtype
from backbones.errors import UserError
from tools.engine import checkpoint, optim
from tools.engine.batches import image_ids
from tools.engine.evaluation import evaluate, to_device
from tools.engine.loop import Pace, _may_overflow, _note_score, fit, train_epoch
from tools.engine.options import TrainOptions
from tools.engine.run_folder import choose_folder, create_folder
from tools.engine.run_log import RunLog
from tools.engine.state import Precision, Training
from tools.engine.trackers import open_trackers
from tools.engine.tracking import RunEnd, RunStart
from tools.processes.batches import TrainBatches
from tools.processes.stopping import Stopped

CPU = torch.device("cpu")


class Line(nn.Module):
    """y = w x; the loss is the squared error."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1))

    def forward(self, x, y=None):
        return {"square": ((self.w * x - y) ** 2).mean()} if self.training else self.w * x


class Errors:
    """An evaluator: the mean error, from states that can be merged."""

    def __init__(self) -> None:
        self.errors: list[float] = []

    def update(self, predictions, targets):
        self.errors += (predictions - targets).abs().tolist()

    def state(self):
        return self.errors

    def merge(self, states):
        self.errors = [error for state in states for error in state]

    def compute(self):
        return {"error": sum(self.errors) / len(self.errors), "count": len(self.errors)}


class Pairs(torch.utils.data.Dataset):
    """x in 1..n with y = 2x, by (epoch, index) keys or plain ones."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, key):
        index = key[1] if isinstance(key, tuple) else key
        return float(index + 1), 2.0 * (index + 1)


def setup(**options) -> tuple[Training, DataLoader, TrainOptions]:
    given = TrainOptions(**{"lr": 0.01, "schedule": "constant", "warmup": 0, "momentum": 0, "batch_size": 4, **options})
    model = Line()
    optimizer = optim.build_optimizer(model, given)
    batches = TrainBatches(np.zeros(8, int), given.batch_size, seed=0, accumulate=given.accumulate)
    schedule = optim.build_schedule(optimizer, given, 100)
    training = Training(model, optimizer, schedule, Precision(CPU, torch.float32), steps_per_epoch=batches.steps)
    return training, DataLoader(Pairs(), batch_sampler=batches), given


def run_epochs(
    training,
    loader,
    folder: Path,
    epochs: int,
    *,
    saved: list[str] | None = None,
    clip_norm: float = 0.0,
    **pace: int,
) -> tuple[dict, list[str]]:
    saved = [] if saved is None else saved
    folder.mkdir(exist_ok=True)
    trackers = open_trackers(["tensorboard"])
    trackers.start(RunStart(folder, {}, training.step))
    measure = DataLoader(Pairs(), batch_size=3)
    try:
        results = fit(
            training,
            loader,
            pace=Pace(epochs, **pace),
            batches=loader.batch_sampler,
            log=RunLog(folder, trackers, step=training.step),
            evaluate=lambda: evaluate(training.evaluated, measure, Errors(), precision=training.precision),
            save=saved.append,
            metric="count",
            clip_norm=clip_norm,
        )
    finally:
        trackers.end(RunEnd("stopped", training.step, {}))
    return results, saved


def test_one_step_is_the_gradient_by_hand(tmp_path: Path):
    """x = 1..8 in one batch: gradient at w = 0 is mean(2 x (0 - 2x)) = -4 mean(x^2) = -4 * 25.5 = -102."""
    training, loader, _ = setup(batch_size=8, weight_decay=0)
    run_epochs(training, loader, tmp_path, 1)
    assert training.model.w.item() == pytest.approx(0.01 * 102)


def test_a_large_gradient_is_clipped(tmp_path: Path):
    training, loader, _ = setup(batch_size=8, weight_decay=0)
    run_epochs(training, loader, tmp_path, 1, clip_norm=10.0)  # instead of 102
    assert training.model.w.item() == pytest.approx(0.01 * 10, rel=1e-5)


def test_the_norm_of_the_gradients_is_computed_once_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    norms, compute = [], nn.utils.get_total_norm

    def counted(*args: Any, **options: Any) -> torch.Tensor:
        norms.append(compute(*args, **options))
        return norms[-1]

    monkeypatch.setattr(nn.utils, "get_total_norm", counted)
    monkeypatch.setattr(nn.utils.clip_grad, "_get_total_norm", counted)  # which `clip_grad_norm_` calls
    training, loader, _ = setup(batch_size=4)
    run_epochs(training, loader, tmp_path, 2, clip_norm=1.0)
    assert len(norms) == training.step == 4


class Scaler:
    """A scaler of fp16 gradients with a given scale."""

    def __init__(self, scale: float, enabled: bool = True) -> None:
        self.get_scale, self.is_enabled = lambda: scale, lambda: enabled


def test_gradients_may_overflow_in_fp16_until_the_scale_is_below_one():
    scalers = [Scaler(65536), Scaler(1), Scaler(0.5), Scaler(65536, enabled=False)]
    assert [_may_overflow(scaler) for scaler in scalers] == [True, True, False, False]


def test_accumulated_batches_make_the_same_step(tmp_path: Path):
    whole, parts = setup(batch_size=8), setup(batch_size=8, accumulate=4)
    run_epochs(*whole[:2], tmp_path / "a", 3)
    run_epochs(*parts[:2], tmp_path / "b", 3)
    assert parts[0].step == whole[0].step == 3
    assert parts[0].model.w.item() == pytest.approx(whole[0].model.w.item(), rel=rounding(8, layers=3))


class Given(nn.Module):
    """The losses are the mean of the images and twice that mean; the weight stays at 0."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1))

    def forward(self, x, y=None):
        if not self.training:
            return self.w * x
        return {"loss_once": x.mean() + 0 * self.w.sum(), "loss_twice": 2 * x.mean() + 0 * self.w.sum()}


def test_losses_of_accumulated_batches_are_logged_as_their_mean(tmp_path: Path):
    """x = 1..8 in one step of four batches: 36 / 8 = 4.5, and 9, in whatever order the images come."""
    training, loader, _ = setup(batch_size=8, accumulate=4)
    training.model = Given()
    steps = list(train_epoch(training, loader, accumulate=4))
    assert [{name: loss.item() for name, loss in step.items()} for step in steps] == [
        {"loss_once": 4.5, "loss_twice": 9.0}
    ]
    training.step = training.epoch_step = 0
    run_epochs(training, loader, tmp_path, 2)  # the last step of a run is always logged
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    (line,) = [line for line in lines if line["split"] == "train"]
    assert (line["step"], line["loss"], line["loss_once"], line["loss_twice"]) == (2, 13.5, 4.5, 9.0)


def test_fit_learns_logs_and_saves(tmp_path: Path):
    training, loader, _ = setup()
    results, saved = run_epochs(training, loader, tmp_path, 20, checkpoint_every=7)
    # An epoch of two steps multiplies 2 - w by (1 - 0.02 a) (1 - 0.02 b), where the means of x^2, a and b, add up to
    # 51: at most (1 - 0.02 * 25.5)^2 = 0.24, so less than 1e-12 is left after 20.
    assert training.model.w.item() == pytest.approx(2, rel=rounding(4))
    assert results["count"] == 8
    assert (training.epoch, training.step) == (20, 40)
    assert saved.count("best") == 1  # a metric that never grows is best once
    assert saved.count("last") == 20 + 3  # each epoch, and steps 7, 21, 35; 14 and 28 end an epoch
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["split"] == "train"] == [20, 40]
    assert all(("epoch" in line) is (line["split"] == "val") for line in lines)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == {"train/loss", "train/square", "lr", "val/epoch", "val/error", "val/count"}
    assert [line["epoch"] for line in lines if "epoch" in line] == list(range(1, 21))


def test_progress_counts_the_images_of_all_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    bars: list[tqdm] = []

    def bar(**options) -> tqdm:
        bars.append(tqdm(**options))
        return bars[-1]

    monkeypatch.setattr("tools.engine.loop.tqdm", bar)
    training, loader, _ = setup()
    run_epochs(training, loader, tmp_path, 3)
    assert (bars[0].n, bars[0].total) == (24, 24)  # three epochs of eight images


def test_a_request_to_stop_ends_the_training_after_a_whole_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    training, loader, _ = setup()
    saved: list[str] = []
    asked = iter([False, False, True])  # in the check of the gradient, after the step, and in the next step's check
    monkeypatch.setattr("tools.engine.loop.stopping.is_requested", lambda: next(asked))
    with pytest.raises(Stopped, match="after step 2"):
        run_epochs(training, loader, tmp_path, 3, saved=saved)
    assert saved[-1] == "last"


def test_evaluations_without_a_new_best_end_the_training_and_stay_counted(tmp_path: Path):
    """The count of images never grows: the first evaluation is the best, and three more of two epochs each follow."""
    training, loader, _ = setup()
    _, saved = run_epochs(training, loader, tmp_path, 20, eval_every=2, patience=3)
    assert (training.epoch, training.step, training.best, training.waited) == (8, 16, 8, 3)
    assert saved.count("best") == 1
    again, loader, _ = setup()
    again.load_state_dict(training.state_dict())
    results, saved = run_epochs(again, loader, tmp_path, 20, eval_every=2, patience=3)
    assert (results, saved, again.step) == ({}, [], 16)  # it has ended already
    run_epochs(again, loader, tmp_path, 10, eval_every=2, patience=0)
    assert again.epoch == 10


@pytest.mark.parametrize("patience", [1, 2])
def test_patience_counts_evaluations_within_epochs_too(tmp_path: Path, patience: int):
    training, loader, _ = setup(batch_size=2)
    run_epochs(training, loader, tmp_path, 5, eval_steps=3, patience=patience)
    assert (training.step, training.epoch, training.epoch_step) == {1: (4, 1, 0), 2: (6, 1, 2)}[patience]


def test_a_score_that_is_no_number_is_never_the_best():
    training, _, _ = setup()
    scores = [float("nan"), None, 0.1, float("nan"), 0.1, 0.2]
    assert [_note_score(training, score) for score in scores] == [False, False, True, False, False, True]
    assert (training.best, training.waited) == (0.2, 0)


def test_state_goes_on_bit_for_bit(tmp_path: Path):
    straight, loader, _ = setup(momentum=0.9, schedule="cosine", warmup=0.1)
    run_epochs(straight, loader, tmp_path / "a", 6)
    half, loader, _ = setup(momentum=0.9, schedule="cosine", warmup=0.1)
    run_epochs(half, loader, tmp_path / "b", 3)
    rest, loader, _ = setup(momentum=0.9, schedule="cosine", warmup=0.1)
    rest.load_state_dict(half.state_dict())
    run_epochs(rest, loader, tmp_path / "b", 6)
    assert rest.model.w.item() == straight.model.w.item()
    assert rest.step == straight.step == 12


def test_a_loss_that_is_not_finite_stops_with_its_terms(tmp_path: Path):
    training, loader, _ = setup(lr=1e30)
    with pytest.raises(UserError, match=r"the loss is not finite at step \d of process 0: square (inf|nan); lr 1e\+30"):
        run_epochs(training, loader, tmp_path, 4)


@pytest.mark.parametrize("training", [True, False])
def test_evaluate_covers_all_and_leaves_the_mode_as_it_was(training: bool):
    model = Line().train(training)
    results = evaluate(model, DataLoader(Pairs(), batch_size=3), Errors(), precision=Precision(CPU, torch.float32))
    assert results == {"error": 9.0, "count": 8}  # |0 - 2x| over x = 1..8
    assert model.training is training


def test_to_device_keeps_structure():
    value = {"a": [torch.zeros(1), (torch.ones(2), "text")], "b": 3}
    moved = to_device(value, torch.device("meta"))
    assert moved["a"][0].device.type == moved["a"][1][0].device.type == "meta"
    assert (moved["a"][1][1], moved["b"]) == ("text", 3)


def test_image_ids_of_the_targets_of_each_task():
    assert image_ids({"index": torch.tensor([3, 5]), "label": torch.tensor([0, 1])}) == [3, 5]
    assert image_ids([{"image_id": torch.tensor(7)}, {"image_id": torch.tensor(4)}]) == [7, 4]


def lrs(options: TrainOptions, steps: int) -> list[float]:
    optimizer = optim.build_optimizer(Line(), options)
    schedule = optim.build_schedule(optimizer, options, steps)
    values = []
    for step in range(steps):
        schedule.step_update(step)
        values.append(optimizer.param_groups[0]["lr"])
    return values


def test_step_schedule_divides_by_ten_at_the_milestones():
    values = lrs(TrainOptions(lr=1.0, warmup=0.1, schedule="step", milestones=(0.5, 0.75)), 100)
    assert values[0] == pytest.approx(0.001)
    assert values[5] == pytest.approx(0.001 + 0.999 * 0.5)
    assert values[10:50] == [1.0] * 40
    assert values[50:75] == pytest.approx([0.1] * 25)
    assert values[75:] == pytest.approx([0.01] * 25)


def test_cosine_schedule_ends_near_zero():
    values = lrs(TrainOptions(lr=1.0, warmup=0, schedule="cosine"), 100)
    assert values[0] == 1.0
    assert values[50] == pytest.approx(0.5)
    assert values[-1] < 1e-3


def test_warmup_is_rounded_and_ends_before_the_last_step():
    """15 percent of 10 steps are 2: 0.001, then halfway, then the full rate. Four steps warm up for three at most."""
    assert lrs(TrainOptions(lr=1.0, warmup=0.15, schedule="constant"), 10)[:3] == pytest.approx([0.001, 0.5005, 1])
    rising = [0.001, 0.334, 0.667, 1]
    assert lrs(TrainOptions(lr=1.0, warmup=0.99, schedule="constant"), 4) == pytest.approx(rising)
    for schedule in ("constant", "cosine"):
        assert lrs(TrainOptions(lr=1.0, warmup=0.9, schedule=schedule), 1) == [1.0]


def test_norm_of_all_gradients():
    model = nn.Linear(1, 1)
    model.weight.grad, model.bias.grad = torch.tensor([[3.0]]), torch.tensor([4.0])
    assert optim.gradient_norm(model).item() == 5


@pytest.mark.parametrize("steps", [0, 1])
def test_a_cosine_without_steps_prints_nothing(caplog: pytest.LogCaptureFixture, steps: int):
    """timm says "Cosine annealing scheduler will have no effect", which would precede the plan of --eval-only."""
    values = lrs(TrainOptions(lr=1.0, warmup=0, schedule="cosine"), steps)
    assert values == [1.0] * steps
    assert caplog.text == ""


def test_batch_size_rules():
    sgd, rule = optim.learning_rate(TrainOptions(optimizer="sgd", batch_size=32, base_lr=0.02, base_batch_size=16))
    assert (sgd, rule) == (0.04, "0.02 x 32 / 16")
    # Adaptive optimizers: 128 / 8 = 16 times the images, sqrt(16) = 4 times the rate; and 2 / 8: half of it.
    for name in ("adamw", "lamb", "lion"):
        given = {"optimizer": name, "base_lr": 0.001, "base_batch_size": 8}
        rate, rule = optim.learning_rate(TrainOptions(batch_size=128, **given))
        assert (rate, rule) == (pytest.approx(0.004), "0.001 x sqrt(128 / 8)")
        assert optim.learning_rate(TrainOptions(batch_size=2, **given))[0] == pytest.approx(0.0005)
        optimizer = optim.build_optimizer(Line(), TrainOptions(batch_size=128, **given))
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.004)
    assert optim.learning_rate(TrainOptions(lr=0.3)) == (0.3, "as given")


def test_norms_and_biases_take_no_weight_decay():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    groups = optim.build_optimizer(model, TrainOptions(weight_decay=0.1)).param_groups
    assert {group["weight_decay"]: sum(p.ndim for p in group["params"]) for group in groups} == {0.0: 3, 0.1: 4}


def test_unknown_optimizer_and_fp16_on_a_cpu():
    with pytest.raises(UserError, match="--optimizer nonsense: unknown"):
        optim.build_optimizer(Line(), TrainOptions(optimizer="nonsense"))
    with pytest.raises(UserError, match="needs a GPU"):
        precision_dtype("fp16", CPU)


def test_run_folders_are_never_overwritten(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, resume = choose_folder(None, prefix="det", resume=False)
    assert not resume
    assert first.parent == Path("runs")
    assert list(first.iterdir()) == []  # no other run of this second gets the name
    create_folder(first)
    assert choose_folder(str(first), prefix="det", resume=False) == (first, False)  # nothing is in it yet
    (first / "checkpoint" / "last.safetensors").write_bytes(b"")
    assert choose_folder(None, prefix="det", resume=False)[0] != first
    assert choose_folder(None, prefix="det", resume=True) == (first, True)
    with pytest.raises(UserError, match="holds files already"):
        choose_folder(str(first), prefix="det", resume=False)
    with pytest.raises(UserError, match=r"has no checkpoint/last\.safetensors to resume"):
        choose_folder(str(tmp_path / "new"), prefix="det", resume=True)
    with pytest.raises(UserError, match="no runs/cls-"):
        choose_folder(None, prefix="cls", resume=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be created"):
        create_folder(tmp_path / "file" / "run")


def test_processes_started_anew_go_on_in_the_folder_that_they_left(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    left, _ = choose_folder(None, prefix="det", resume=False, launchers={"launch-1"})
    create_folder(left, launchers={"launch-1", "launch-2"})
    again = {"prefix": "det", "resume": False, "launchers": {"launch-2"}}
    assert choose_folder(None, **again) == (left, False)  # killed before the first checkpoint: from the start
    (left / "checkpoint" / "last.safetensors").write_bytes(b"")
    assert choose_folder(None, **again) == choose_folder(str(left), **again) == (left, True)
    assert choose_folder(None, **again | {"launchers": {"launch-3"}})[0] != left
    with pytest.raises(UserError, match="holds files already"):
        choose_folder(str(left), **again | {"launchers": {"launch-3"}})


def test_the_log_is_cut_back_to_the_checkpoint(tmp_path: Path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 10}\n{"step": 20}\n{"step": 30}\n{"st')
    RunLog(tmp_path, step=20)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 10}\n{"step": 20}\n'


def test_evaluations_that_are_made_again_are_logged_once(tmp_path: Path):
    """A run that stops before the evaluation of step 20 makes it later, and may be killed before it saves."""
    written = ['{"step": 10, "epoch": 1}', '{"step": 20, "loss": 1}', '{"step": 20, "epoch": 2}']
    (tmp_path / "metrics.jsonl").write_text("\n".join(written) + "\n")
    RunLog(tmp_path, step=20, measured=10)
    assert (tmp_path / "metrics.jsonl").read_text().splitlines() == written[:2]


def test_a_full_disk_ends_the_log_in_one_line(tmp_path: Path):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    log = RunLog(tmp_path)
    with pytest.raises(UserError, match=r"metrics\.jsonl: cannot be written \(No space left on device\)"):
        log.write(1, {"loss": 1.0}, split="train")


def test_resume_in_mid_epoch_is_exact_with_fused_adam_and_channels_last(tmp_path: Path):
    """A convolution in channels_last under fused AdamW: two steps, a checkpoint file, two more, against four."""

    class Conv(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 6, 3)

        def forward(self, x, y=None):
            images = x.float()[:, None, None, None] * torch.linspace(0, 1, 100).view(1, 4, 5, 5)
            noise = torch.rand(1)  # as samplers draw: the random state matters
            return {"mean": (self.conv(images).mean(dim=(1, 2, 3)) * noise - y).square().mean()}

    def made() -> tuple[Training, DataLoader]:
        torch.manual_seed(0)
        options = TrainOptions(optimizer="adamw", lr=0.01, batch_size=2)
        model = Conv().to(memory_format=torch.channels_last)
        optimizer = optim.build_optimizer(model, options)
        schedule = optim.build_schedule(optimizer, options, 4)
        batches = TrainBatches(np.zeros(8, int), 2, seed=0)
        loader = DataLoader(Pairs(), batch_sampler=batches, generator=torch.Generator())
        return Training(model, optimizer, schedule, Precision(CPU, torch.float32), steps_per_epoch=4), loader

    def steps(training: Training, loader: DataLoader, first: int, count: int) -> None:
        loader.batch_sampler.seek(0, first)
        for _ in itertools.islice(train_epoch(training, loader), count):
            pass

    straight = made()
    steps(*straight, 0, 4)
    half = made()
    steps(*half, 0, 2)
    checkpoint.save(tmp_path / "c", {"training": half[0].state_dict(), "random": torch.get_rng_state()})
    rest = made()
    state = checkpoint.load(tmp_path / "c")
    rest[0].load_state_dict(state["training"])
    torch.set_rng_state(state["random"])
    steps(*rest, 2, 2)
    assert torch.equal(rest[0].model.conv.weight, straight[0].model.conv.weight)
    assert rest[0].step == straight[0].step == 4

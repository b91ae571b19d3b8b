"""A loss that is not finite, and its replay, in the three tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CIFAR
from safetensors.torch import save_file
from tolerances import rounding
from torch import nn

import backbones
from backbones.norm import norm_table
from detection import FasterRCNN
from tools import replay, train_cls, train_det, train_seg
from tools.cli import ending
from tools.engine import checkpoint, replaying
from tools.engine.batches import image_ids
from tools.synthetic.crops import prepare
from tools.tasks.models import rebuild

BROKEN = ("--lr", "1e30", "--warmup", 0, "--schedule", "constant", "--clip-norm", 0, "--batch-size", 4, "--epochs", 1,
          "--limit", 12, "--workers", 0, "--threads", 1, "--precision", "bf16", "--optimizer", "momentum")  # fmt: skip
TASKS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "classification": (train_cls, (*CIFAR, "--mixup", 0.2, "--label-smoothing", 0.1)),
    "detection": (
        train_det,
        ("--backbone", "timm/test_resnet", "--weights", "none", "--min-size", 64, "--max-size", 64, "--fpn-channels",
         16, "--head-channels", 16, "--proposals", 100, "--fpn-norm", "group"),
    ),
    "segmentation": (
        train_seg,
        ("--recipe", "shapes", "--backbone", "timm/test_resnet", "--crop-size", 48, "--class-weights",
         "median"),
    ),
}  # fmt: skip


def status(main: Any, *words: Any) -> int | str | None:
    """Run a command; return its exit status."""
    try:
        ending.run(lambda: main([*map(str, words)]))
    except SystemExit as ended:
        return ended.code
    return 0


@pytest.mark.parametrize("task", TASKS)
def test_a_broken_loss_is_explained_kept_and_replayed(capsys, small_shapes: Path, tmp_path: Path, task: str):
    """The first step ruins the weights; the second one's loss is no number."""
    script, words = TASKS[task]
    data = prepare(tmp_path, train=24, val=6, size=64) if task == "classification" else small_shapes
    assert status(script.main, "--data", data, *words, *BROKEN, "--output", tmp_path / "my run") == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    path = tmp_path / "my run" / "nonfinite-step-2-rank-0.safetensors"
    assert f"--resume --output '{path.parent}' --lr LOWER;" in line
    assert line.startswith("error: the loss is not finite at step 2 of process 0: loss_")
    assert "; lr 1e+30; images [" in line
    assert line.endswith(f"; find the cause with: python tools/replay.py '{path}'")
    assert (" boxes, sides of " in line) == (task == "detection")
    assert status(replay.main, path) == 0
    printed = capsys.readouterr().out
    kept = checkpoint.load(path)
    ids = image_ids(kept["targets"])
    assert printed.startswith(f"step 2 of process 0, lr 1e+30, images {ids}\n")
    assert f"images {ids}" in line
    terms = ", ".join(f"{name} {loss:.6g}" for name, loss in kept["losses"].items())
    assert f"the run saw   {terms}\n" in printed
    for precision in ("float32", "bfloat16"):
        (shown,) = [line for line in printed.splitlines() if line.startswith(precision)]
        assert set(kept["losses"]) <= set(shown.replace(",", "").split())
    assert "first output that is not finite: backbone." in printed
    assert status(replay.main, path, "--weights", "checkpoint") == 0  # those before the ruinous step
    printed = capsys.readouterr().out
    assert "weights       finite (of the last checkpoint)" in printed
    assert printed.count("first output that is not finite: none") == 2
    assert "nan" not in printed.split("float32")[1]


@pytest.mark.parametrize("norm", ["live", "frozen"])
def test_the_replayed_loss_is_the_runs_own(small_shapes: Path, tmp_path: Path, monkeypatch, norm: str):
    """A loss that a run spoils by itself: everything else, the sampling of anchors and boxes too, is repeated."""
    forward, (_, words) = FasterRCNN.forward, TASKS["detection"]
    nan = {"loss_spoilt": torch.tensor(torch.nan)}
    run = ("--data", small_shapes, *words, *BROKEN, "--lr", 0.01, "--output", tmp_path / "run")
    if norm == "frozen":  # as pretrained norm is, beside stages that stay as they are
        save_file(backbones.build("timm/test_resnet", weights=None).state_dict(), tmp_path / "weights.safetensors")
        run += ("--weights", tmp_path / "weights.safetensors", "--precision", "fp32")
    monkeypatch.setattr(FasterRCNN, "forward", lambda self, *given: {**forward(self, *given), **nan})
    assert status(train_det.main, *run) == 2
    monkeypatch.undo()
    kept = checkpoint.load(tmp_path / "run" / "nonfinite-step-1-rank-0.safetensors")
    net = replaying.restore(rebuild(kept["meta"], None), kept).to(memory_format=torch.channels_last)
    assert ("frozen" in norm_table(net)) == (norm == "frozen")
    found = replaying.trace(net, kept, getattr(torch, kept["precision"]))
    # A watched convolution is not folded with its frozen norm, and rounds otherwise.
    near = rounding(96 * 9, layers=20)
    expected = {name: pytest.approx(loss, rel=near) for name, loss in kept["losses"].items() if name != "loss_spoilt"}
    assert found.losses == (
        expected if norm == "frozen" else {k: v for k, v in kept["losses"].items() if k in expected}
    )
    assert found.finite


def test_the_first_broken_module_and_gradient_are_named():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.twice, self.root = nn.Linear(1, 1, bias=False), Root()

        def forward(self, x: torch.Tensor, _: Any) -> dict[str, torch.Tensor]:
            return {"loss": self.root(self.twice(x)).sum()}

    class Root(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.sqrt()

    def traced(value: float) -> replaying.Traced:
        net = Net()
        nn.init.constant_(net.twice.weight, 2)
        kept = {"images": torch.tensor([[value]]), "targets": [], "random": {"cpu": torch.get_rng_state()}}
        return replaying.trace(net, kept, torch.float32)

    assert traced(2.0) == replaying.Traced({"loss": 2.0}, None, None)
    assert traced(-1.0).module == "root (Root)"
    assert traced(0.0).module is None  # its loss is 0, and the slope there infinite
    assert "SqrtBackward0" in str(traced(-1.0).gradient)


def test_other_files_are_refused(tmp_path: Path, capsys):
    checkpoint.save(tmp_path / "c.safetensors", {"training": {}})
    assert status(replay.main, tmp_path / "c.safetensors") == 2
    assert "is not a record of a non-finite loss" in capsys.readouterr().err
    assert status(replay.main) == 2
    assert "FILE: missing" in capsys.readouterr().err
    assert status(replay.main, tmp_path / "absent") == 2
    assert "no such file" in capsys.readouterr().err

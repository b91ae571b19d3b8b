"""Start of a run: on request, each run has the same bits; weights of another task are refused."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType

import pytest
import torch
from conftest import CIFAR, write_classes
from safetensors.torch import load_file
from tolerances import rounding
from torchvision.ops import roi_align

from backbones import FeatureInfo
from backbones.errors import UserError
from detection.roi_align import PyramidRoIAlign
from segmentation.data.classes import IGNORE
from segmentation.losses import PixelLoss
from tools import train_cls, train_det, train_seg
from tools.engine.environment import require_possible, user_error_of
from tools.engine.options import TrainOptions
from tools.processes import distributed


@pytest.fixture
def deterministic():
    """torch refuses what has no deterministic form."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def print_flags() -> None:
    """Have this process say at its end how torch computes."""
    from tools.processes import distributed

    def stop() -> None:
        found = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic
        print(*found, torch.backends.cudnn.benchmark, os.environ["CUBLAS_WORKSPACE_CONFIG"])

    distributed.stop = stop


def test_two_deterministic_runs_give_the_same_bits(launch, tmp_path: Path):
    write_classes(tmp_path / "data", count=4, classes="ab")
    words = ("--data", "data", *CIFAR, "--epochs", 2, "--batch-size", 4, "--workers", 0, "--deterministic")
    runs = [launch("train_cls.py", *words, "--output", name, cwd=tmp_path, first=print_flags) for name in "ab"]
    for run in runs:
        status, printed, errors = run.end()
        assert status == 0, errors
        assert printed.splitlines()[-1] == "True True False :4096:8"
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_an_operation_without_a_deterministic_form_is_named():
    text = (
        "adaptive_avg_pool2d_backward_cuda does not have a deterministic implementation, but you set "
        "'torch.use_deterministic_algorithms(True)'. You can turn off determinism just for this operation.\nMore"
    )
    error = user_error_of(RuntimeError(text))
    assert isinstance(error, UserError)
    assert str(error).startswith("--deterministic: adaptive_avg_pool2d_backward_cuda does not have a")
    assert "\n" not in str(error) and str(error).endswith("use another model, or leave the option out")
    assert user_error_of(RuntimeError("CUDA out of memory")) is None


def test_roi_align_is_sums_of_rows_where_a_gpu_must_be_deterministic(deterministic):
    """Off a CPU (meta tensors stand for a GPU); the numbers are the operator's, on large maps too."""
    pool = PyramidRoIAlign([FeatureInfo("c2", 3, 1)], size=7, samples=2)
    assert pool._by_rows(torch.empty(1, 1, 200, 300, device="meta"))
    torch.use_deterministic_algorithms(False)
    assert not pool._by_rows(torch.empty(1, 1, 200, 300, device="meta"))
    features = torch.rand(2, 3, 90, 100, dtype=torch.double)
    boxes = torch.tensor([[3.0, 4, 50, 80], [0, 0, 99, 10], [10, 10, 12, 11]], dtype=torch.double)
    operator = roi_align(features, [boxes[:1], boxes[1:]], 7, sampling_ratio=2)
    found = pool({"c2": features}, [boxes[:1], boxes[1:]], [(90, 100)] * 2)
    torch.testing.assert_close(found, operator)


@pytest.mark.parametrize("kind", ["ce", "ohem", "dice"])
@pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 2.0, 0.5])])
def test_the_loss_over_pixels_is_the_same_by_rows(kind, weights):
    torch.manual_seed(0)
    scores, labels = torch.randn(2, 3, 5, 4), torch.randint(0, 3, (2, 5, 4))
    labels[0, :2] = IGNORE
    loss = PixelLoss(kind, weights)
    plain = loss(scores, labels)
    torch.use_deterministic_algorithms(True)
    try:
        assert loss(scores, labels).item() == pytest.approx(plain.item(), rel=rounding(labels.numel()))
    finally:
        torch.use_deterministic_algorithms(False)


def test_only_a_training_needs_a_batch_that_divides_among_the_processes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    options, device = TrainOptions(batch_size=16), torch.device("cpu")
    require_possible(options, {"eval_only": True}, device)
    with pytest.raises(UserError, match=r"--batch-size 16: does not divide into 3 processes .* a multiple of 3"):
        require_possible(options, {"eval_only": False}, device)


@pytest.mark.parametrize(
    ("of", "command", "task"),
    [("cls", train_det, "classification"), ("det", train_seg, "detection"), ("seg", train_cls, "segmentation")],
)
def test_weights_of_another_task_are_not_evaluated(
    of: str, command: ModuleType, task: str, tiny_runs: dict[str, Path], tmp_path: Path
):
    words = ["--eval-only", "--weights", str(tiny_runs[of]), "--data", "absent", "--output", str(tmp_path / "run")]
    with pytest.raises(UserError, match=rf"--weights .*: is a model for {task}; evaluate it with that task's command"):
        command.main(words)
    assert not (tmp_path / "run").exists()

"""`--compile` compiles the parts of a model for training; files, evaluation and refusals stay as they are."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import classification
import detection
import segmentation
from backbones.common.run_files import MODEL_FILE
from backbones.errors import UserError
from tests.tolerances import assert_rounded
from tools import train_cls
from tools.engine import checkpoint
from tools.engine.compiling import compile_parts, require_compiler, uncompiled
from tools.engine.environment import user_error_of
from tools.engine.run_folder import LAST

BOX = torch.tensor([[8.0, 8.0, 40.0, 40.0]])


class Compiler:
    """Stands for torch.compile: notes the options, and for each call the module and whether compiling is on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.options: list[dict[str, Any]] = []
        self.calls: list[tuple[nn.Module, bool]] = []
        self.is_on = True
        monkeypatch.setattr(torch, "compile", self.compile)
        monkeypatch.setattr(torch.compiler, "set_stance", self.set_stance)

    def compile(self, call: Any, **options: Any) -> Callable[..., Any]:
        self.options.append(options)

        def compiled(*args: Any, **keywords: Any) -> Any:
            self.calls.append((call.__self__, self.is_on))
            return call(*args, **keywords)

        return compiled

    @contextmanager
    def set_stance(self, stance: str) -> Iterator[None]:
        assert stance == "force_eager"
        self.is_on = False
        yield
        self.is_on = True


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Compiler:
    return Compiler(monkeypatch)


def detector(neck: str, **options: Any) -> Any:
    sizes = {"fpn_channels": 8, "head_channels": 8, "mask_channels": 8, "proposals": 8, "rois_per_image": 8}
    return detection.build("resnet18", 2, neck=neck, min_size=64, max_size=64, **sizes, **options)


HEADS = ["rpn head", "box head", "box predictor"]
LATER = ["box head 2", "box predictor 2", "box head 3", "box predictor 3"]


@pytest.mark.parametrize(
    ("build", "names"),
    [
        (lambda: classification.build("resnet20", 2), ["backbone"]),
        (lambda: segmentation.build("resnet18", 2, head="dilated"), ["backbone", "classifier", "aux_classifier"]),
        (lambda: segmentation.build("resnet18", 2, head="fcn8s", aux=False), ["backbone", "classifier", "fusion"]),
        (lambda: detector("fpn", masks=True), ["backbone", *HEADS, "mask head"]),
        (lambda: detector("c4", masks=True), ["backbone", *HEADS]),
        (lambda: detector("dc5", cascade=True), ["backbone", *HEADS, *LATER]),
    ],
)
def test_a_training_step_calls_every_part_that_is_compiled(compiler: Compiler, build: Callable[[], Any], names: list):
    torch.manual_seed(0)
    model = build().train()
    parts = model.compilable()
    compile_parts(parts, fixed_size=False)
    images, targets = torch.rand(2, 3, 64, 64), {"label": torch.tensor([0, 1]), "mask": torch.ones(2, 64, 64).long()}
    if isinstance(model, detection.FasterRCNN):
        one = {"boxes": BOX, "labels": torch.tensor([1]), "masks": torch.ones(1, 64, 64)}
        model(list(images), [one, one])
    else:
        model(images, targets)
    assert list(parts) == names
    assert {part for part, _ in compiler.calls} == set(parts.values())
    assert compiler.options == [{"dynamic": True}] * len(parts)


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_run_trains_compiled_and_evaluates_and_saves_as_without(
    compiler: Compiler, tmp_path: Path, capsys: pytest.CaptureFixture[str], ema: float
):
    for number in range(8):
        path = tmp_path / "data" / ("train", "val")[number // 4] / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((32, 32, 3), number, np.uint8))
    words = ["--data", tmp_path / "data", "--recipe", "cifar", "--weights", "none", "--batch-size", 2, "--epochs", 1,
             "--workers", 0, "--ema", ema, "--output", tmp_path / "run", "--track", "none"]  # fmt: skip
    train_cls.main([*map(str, words), "--compile"])
    assert "\ncompiled     backbone; the first steps wait for the compiler\n" in capsys.readouterr().out
    # Two steps of training. The moving average is not compiled at all, and the model only outside of evaluations.
    assert compiler.options == [{"dynamic": False}]
    assert [is_on for _, is_on in compiler.calls][:2] == [True, True]
    assert [is_on for _, is_on in compiler.calls][2:] == ([] if ema else [False] * (len(compiler.calls) - 2))
    assert ema or len(compiler.calls) > 2
    plain = set(classification.build("resnet20", 2).state_dict())
    state = checkpoint.load(tmp_path / "run" / LAST)["training"]
    assert set(load_file(tmp_path / "run" / MODEL_FILE)) == set(state["model"]) == plain
    # An evaluation of the run compiles nothing, and the run can be resumed without the compiler.
    compiler.options.clear()
    train_cls.main(["--resume", "--output", str(tmp_path / "run"), "--eval-only"])
    train_cls.main(["--resume", "--output", str(tmp_path / "run"), "--epochs", "2", "--compile", "false"])
    assert compiler.options == []


class Small(nn.Module):
    """A module with code of its own; torch 2.8 does not compile torch's own modules alone."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x).tanh()


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch needs a C++ compiler")
def test_compiled_parts_compute_the_same_and_not_within_evaluations(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    # torch's own cache would give code for the instructions that an earlier process was allowed to use.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.manual_seed(0)
    net, images = Small(), torch.rand(3, 4)
    expected = net(images).detach()
    names = list(net.state_dict())
    compile_parts({"net": net}, fixed_size=True)
    assert_rounded(net(images).detach(), expected, terms=4, layers=2)
    assert list(net.state_dict()) == names
    from torch._dynamo.utils import counters

    graphs = counters["stats"]["unique_graphs"]
    with uncompiled(net):
        assert torch.equal(net(images), expected)
        assert net(torch.rand(7, 4)).shape == (7, 4)
    assert counters["stats"]["unique_graphs"] == graphs > 0


def test_what_cannot_be_compiled_gets_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    with pytest.raises(UserError, match=r"^--compile: cannot be combined with --recompute; leave one of them out$"):
        train_cls.main(["--compile", "--recompute", "--weights", "none", "--output", str(tmp_path / "run")])
    monkeypatch.setenv("CXX", "no-compiler")
    with pytest.raises(UserError, match=r"^--compile: needs the C\+\+ compiler no-compiler, which is not installed;"):
        require_compiler(torch.device("cpu"))
    from torch._dynamo.exc import Unsupported

    said = str(user_error_of(Unsupported("a reason\nand more", case_name="constant_getattr")))
    assert said == "--compile: torch cannot compile the model (a reason); leave the option out"

"""A run with a head of the user's own: recorded, and imported only where the command line names it again."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import segmentation
from backbones.common import plugins
from backbones.errors import UserError
from backbones.trained import find

HEAD = """
import segmentation
from torch import nn


@segmentation.register_head("linear_of_mine", features=1, output_stride=16)
def build_linear(feature_info, num_classes, *, aux):
    return segmentation.Head(classifier=Linear(feature_info[-1].channels, num_classes, 1))


class Linear(nn.Conv2d):
    pass
"""
RUN = ("--recipe", "shapes", "--backbone", "timm/test_resnet", "--crop-size", 48, "--batch-size", 4, "--epochs", 1,
       "--limit", 8, "--head", "linear_of_mine", "--aux", "false", "--workers", 0, "--threads", 1)  # fmt: skip


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the plugins that this process loads."""
    monkeypatch.setattr(plugins, "_loaded", {})


def test_a_run_with_a_head_of_ones_own(small_shapes: Path, script, clean, tmp_path: Path):
    (tmp_path / "heads.py").write_text(HEAD)
    words = ("--data", small_shapes, *RUN, "--output", "run")
    done = script("train_seg.py", *words, cwd=tmp_path)
    assert done.returncode == 2 and "head 'linear_of_mine'" in done.stderr
    assert not (tmp_path / "run").exists()
    done = script("train_seg.py", *words, "--plugin", "heads.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    config = tmp_path / "run" / "config.yaml"
    assert yaml.safe_load(config.read_text())["plugin"] == ["heads.py"]
    missing = "trained with plugins that are not loaded: 'heads.py'; "
    evaluate = ("--eval-only", "--weights", "run/model.safetensors", "--data", small_shapes, *RUN, "--output", "again")
    for again in (("--resume", "--output", "run"), ("--config", config, "--output", "other"), evaluate):
        done = script("train_seg.py", *again, cwd=tmp_path)
        assert done.returncode == 2 and missing in done.stderr and "--plugin heads.py" in done.stderr
    with pytest.raises(UserError, match=missing):
        segmentation.load(tmp_path / "run")
    for again in (("--resume", "--output", "run"), evaluate):
        done = script("train_seg.py", *again, "--plugin", tmp_path / "heads.py", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    segmenter = segmentation.load(tmp_path / "run", plugins=[tmp_path / "heads.py"])
    assert type(segmenter.model.classifier).__name__ == "Linear"
    assert find(tmp_path / "run").meta["plugins"] == [str(tmp_path / "heads.py")]  # as the last resume named it

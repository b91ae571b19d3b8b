"""Checkpoints of other training programs: state dicts under any key and prefix, beside objects of any class."""

from __future__ import annotations

import argparse
import datetime
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import backbones
import classification
from backbones.errors import UserError
from backbones.weights.files import read_state
from backbones.weights.names import best_prefix
from classification.model import Classifier, PooledClassifier

K = 3  # classes


@pytest.fixture(scope="module")
def trained() -> PooledClassifier:
    torch.manual_seed(0)
    model = classification.build("resnet20", K)
    assert isinstance(model, PooledClassifier)
    return model


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def trunk(model: Classifier, prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in model.backbone.state_dict().items()}


def head(model: PooledClassifier, name: str) -> dict[str, Tensor]:
    return {f"{name}.weight": model.fc.weight.data, f"{name}.bias": model.fc.bias.data}


def is_same(model: nn.Module, other: nn.Module) -> bool:
    given = other.state_dict()
    return all(torch.equal(value, given[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "prefix, name",
    [
        ("net.", "net.fc"),
        ("encoder.", "classifier"),
        ("model.backbone.", "model.head"),
        ("my_own.name.", "my_own.anything.1"),
        ("fc_free.", "fc.1"),
        ("0.", "3"),
        ("0.", "1.3"),
    ],
)
def test_trunk_and_head_are_found_under_any_prefix(trained: PooledClassifier, prefix: str, name: str, tmp_path: Path):
    content = {**trunk(trained, prefix), **head(trained, name), "criterion.weight": torch.ones(K)}
    model = classification.build("resnet20", K, weights=saved(tmp_path / "net.pth", content))
    assert is_same(model, trained)
    report = model.load_report
    assert report is not None and report.missing == () and report.unexpected == ("criterion.weight",)


def test_a_head_of_another_shape_or_of_two_layers_stays_random(trained: PooledClassifier, tmp_path: Path):
    projection = {f"fc.{i}.{part}": value for i in (0, 2) for part, value in trained.fc.state_dict().items()}
    for others in ({"fc.weight": torch.ones(K + 1, 64), "fc.bias": torch.ones(K + 1)}, projection):
        path = saved(tmp_path / "net.pth", {**trunk(trained, ""), **others})
        report = classification.build("resnet20", K, weights=path).load_report
        assert report is not None and report.missing == ("fc.bias", "fc.weight")


def test_two_heads_that_fit_are_not_guessed(trained: PooledClassifier, tmp_path: Path):
    content = {**trunk(trained, "net."), **head(trained, "age"), **head(trained, "kind")}
    report = classification.build("resnet20", K, weights=saved(tmp_path / "net.pth", content)).load_report
    assert report is not None and report.missing == ("fc.bias", "fc.weight")
    assert set(report.unexpected) == {"age.weight", "age.bias", "kind.weight", "kind.bias"}


@pytest.mark.parametrize("names", [("encoder_q", "encoder_k"), ("base_encoder", "momentum_encoder")])
def test_mocos_first_encoder_is_used(trained: PooledClassifier, names: tuple[str, str], tmp_path: Path):
    other = {name: value + 1 for name, value in trunk(trained, f"module.{names[1]}.").items()}
    content = {"state_dict": {**trunk(trained, f"module.{names[0]}."), **other, "module.queue": torch.ones(2, 2)}}
    backbone = backbones.build("resnet20", weights=saved(tmp_path / "moco.pth.tar", content))
    assert is_same(backbone, trained.backbone)


def test_of_equal_prefixes_the_shortest_and_then_the_first_is_used_unless_it_is_a_second_encoders():
    own = {"w", "b"}
    assert best_prefix(own, ["long.w", "long.b", "p.w", "p.b", "q.w", "q.b", "m.w"]) == "p."
    assert best_prefix(own, ["k.w", "k.b", "long.w", "long.b", "longer.w", "longer.b"]) == "long."
    assert best_prefix(own, ["x.y", "z"]) == ""


@pytest.mark.parametrize("ending", [(), (nn.AdaptiveAvgPool2d(1), nn.Flatten())])
@pytest.mark.parametrize("prefix", ["", "0."])
def test_numbered_children_match_in_order(trained: PooledClassifier, prefix: str, ending: Any, tmp_path: Path):
    """As `nn.Sequential(*model.children())` and fastai name them."""
    body = nn.Sequential(*trained.backbone.children(), *ending, trained.fc)
    content = {f"{prefix}{name}": value for name, value in body.state_dict().items()}
    model = classification.build("resnet20", K, weights=saved(tmp_path / "net.pth", {"model": content, "opt": {}}))
    assert is_same(model, trained)


def test_numbered_children_of_another_network_are_refused(trained: PooledClassifier, tmp_path: Path):
    path = saved(tmp_path / "net.pth", nn.Sequential(*trained.backbone.children()).state_dict())
    with pytest.raises(UserError, match="resnet32"):
        backbones.build("resnet32", weights=path)


@pytest.mark.parametrize(
    "wrapper", ["model_state_dict", "net", "weights", "params_ema", "teacher", "ema_state_dict", "some_other_word"]
)
def test_the_state_dict_may_lie_under_many_keys(wrapper: str, tmp_path: Path):
    optimizer = {"state": {0: {"exp_avg": torch.ones(1)}}, "by_name": {"w": torch.ones(1)}}
    content = {
        "epoch": 3,
        wrapper: {"w": torch.ones(2), "b": torch.ones(2)},
        "optimizer": optimizer,
        "loss": torch.ones(()),
    }
    assert list(read_state(saved(tmp_path / "net.pth", content))) == ["w", "b"]


def test_averaged_weights_come_before_others(tmp_path: Path):
    for averaged, other in (("teacher", "student"), ("params_ema", "params"), ("model_ema", "model")):
        path = saved(tmp_path / "net.pth", {other: {"w": torch.zeros(1)}, averaged: {"w": torch.ones(1)}})
        assert read_state(path) == {"w": torch.ones(1)}


def test_several_state_dicts_of_unusual_names_are_refused(tmp_path: Path):
    path = saved(tmp_path / "gan.pth", {name: {"w": torch.zeros(1)} for name in ("generator", "discriminator")})
    with pytest.raises(UserError, match=r"several state dicts \(generator, discriminator\)") as error:
        read_state(path)
    assert "\n" not in str(error.value)


class Config(argparse.Namespace):
    """A class that the reader must not need."""

    def __setstate__(self, state: object) -> None:
        raise AssertionError("foreign code ran")


@pytest.mark.parametrize("legacy", [False, True])
def test_objects_of_harmless_and_unknown_classes_are_left_out(legacy: bool, tmp_path: Path):
    counts = defaultdict(list, {"top1": [0.5]})
    entries = OrderedDict(w=torch.ones(2))
    beside: dict[str, Any] = {
        "args": argparse.Namespace(lr=0.1, output=Path("out")),
        "config": Config(depth=50),
        "metric": np.float64(0.5),
        "scores": np.arange(3),
        "history": counts,
        "at": datetime.datetime(2026, 1, 1),
    }
    if not legacy:  # the old format has a mark of its own for a module's class
        beside["kind"] = nn.Conv2d
    path = tmp_path / "net.pth"
    torch.save({**beside, "state_dict": entries}, path, _use_new_zipfile_serialization=not legacy)
    assert read_state(path)["w"].tolist() == [1, 1]


def test_entries_in_a_defaultdict_are_weights(tmp_path: Path):
    assert list(read_state(saved(tmp_path / "net.pth", defaultdict(int, w=torch.ones(1))))) == ["w"]


def test_a_pickled_model_is_named_as_such(tmp_path: Path):
    path = saved(tmp_path / "net.pth", {"model": nn.Linear(1, 1)})
    with pytest.raises(UserError, match=r"holds a pickled model .*state_dict\(\)"):
        read_state(path)

"""The listing of backbones: its figures equal the published ones, and weights have licence and recipe."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn
from torchvision.models import ResNet50_Weights, get_model

import backbones
from backbones.errors import UserError
from backbones.weights import timm_accuracies
from tools import list_backbones
from tools.engine.cost import parameters, without_numbers


def listed(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, dict[str, Any]]:
    list_backbones.main([*words, "--json"])
    return {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}


def test_published_figures_of_resnet50(capsys: pytest.CaptureFixture[str]) -> None:
    entry = listed(capsys, "resnet50")["resnet50"]
    meta = ResNet50_Weights.IMAGENET1K_V1.meta
    assert entry["parameters"] == meta["num_params"] and round(entry["gflops"], 3) == meta["_ops"]
    infos = backbones.build("resnet50", weights=None).feature_info
    assert entry["features"] == [{"name": f.name, "channels": f.channels, "stride": f.stride} for f in infos]
    assert [w["tag"] for w in entry["weights"]] == ["IMAGENET1K_V1", "IMAGENET1K_V2"]  # no alias DEFAULT
    assert [w["default"] for w in entry["weights"]] == [True, False]
    first = entry["weights"][0]
    assert (first["top1"], first["top5"], first["size"]) == (76.13, 92.862, 224)
    assert first["licence"] == "BSD-3-Clause" and first["recipe"] == meta["recipe"]


def test_models_without_published_weights_have_no_weights(capsys: pytest.CaptureFixture[str]) -> None:
    """0.27 M parameters and 32x32 pixels: table 6 of the paper."""
    entry = listed(capsys, "resnet20")["resnet20"]
    assert (entry["weights"], entry["image_size"], round(entry["parameters"] / 1e6, 2)) == ([], 32, 0.27)
    assert [f["name"] for f in entry["features"]] == ["c0", "c1", "c2"]


def test_without_a_pattern_the_own_backbones_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(listed(capsys, "--costs", "no")) == backbones.names()


def test_licences_and_missing_figures(capsys: pytest.CaptureFixture[str]) -> None:
    """One model has weights under a special licence, has no pyramid, and accepts only 224 pixels."""
    entry = listed(capsys, "torchvision/vit_b_16")["torchvision/vit_b_16"]
    assert entry["features"] is None and (entry["parameters"], entry["image_size"]) == (86_567_656, 224)
    swag = next(w for w in entry["weights"] if w["tag"] == "IMAGENET1K_SWAG_E2E_V1")
    assert "SWAG/blob/main/LICENSE" in swag["licence"] and swag["size"] == 384
    vgg = listed(capsys, "torchvision/vgg16", "--costs", "no")["torchvision/vgg16"]
    unmeasured = next(w for w in vgg["weights"] if w["tag"] == "IMAGENET1K_FEATURES")
    assert unmeasured["top1"] is None and vgg["parameters"] is None


def test_timm_names_its_tags_and_licences(capsys: pytest.CaptureFixture[str]) -> None:
    entry = listed(capsys, "timm/resnet18")["timm/resnet18"]
    assert entry["parameters"] == 11_689_512
    tags = {w["tag"]: w for w in entry["weights"]}
    assert tags["a1_in1k"]["licence"] == "apache-2.0" and tags["a1_in1k"]["default"]
    assert tags["tv_in1k"]["licence"] == "bsd-3-clause" and "2024-11-28" in tags["tv_in1k"]["measured"]
    # Rows of timm's file: resnet18.a1_in1k was also measured at 224 pixels (71.488), its training size.
    assert (tags["a1_in1k"]["top1"], tags["a1_in1k"]["top5"], tags["a1_in1k"]["size"]) == (73.164, 91.054, 288)
    assert (tags["tv_in1k"]["top1"], tags["tv_in1k"]["size"]) == (69.752, 224)


def test_the_file_of_accuracies_is_timms() -> None:
    """1,445 rows in timm's order, by falling top-1 and top-5; timm renames a model now and then."""
    lines = Path(timm_accuracies.__file__).with_name("timm_imagenet.csv").read_text(encoding="utf-8").splitlines()
    assert "7479d451a6dfd8af27f941b8e82a7402461fae80" in lines[1] and lines[3] == "model,size,top1,top5"
    rows = [
        (model, int(size), float(top1), float(top5))
        for model, size, top1, top5 in map(partial(str.split, sep=","), lines[4:])
    ]
    assert len({row[:2] for row in rows}) == len(rows) == 1445
    assert rows == sorted(rows, key=lambda row: (-row[2], -row[3])) and all(row[2] < row[3] < 100 for row in rows)
    names = {row[0] for row in rows}
    assert len(names - set(timm.list_pretrained())) < len(names) / 100
    assert timm_accuracies.timm_accuracy("resnet50.a1_in1k", 224) == (80.382, 94.598)
    assert timm_accuracies.timm_accuracy("resnet50.of_tomorrow", 224) is None


def test_many_models_are_listed_without_costs(capsys: pytest.CaptureFixture[str]) -> None:
    list_backbones.main(["timm/*"])
    shown = capsys.readouterr()
    assert "--costs yes" in shown.err and shown.out.count("timm/") > 1000


def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    list_backbones.main(["resnet18"])
    head, net, weights, source = capsys.readouterr().out.splitlines()
    assert head.split()[:2] == ["name", "params"]
    assert " ".join(net.split()) == "resnet18 11.69 M 1.81 224 c2 64/4 c3 128/8 c4 256/16 c5 512/32"
    assert weights.split()[:6] == ["IMAGENET1K_V1*", "top-1", "69.76", "%", "top-5", "89.08"]
    assert source.startswith("accuracies on ImageNet") and source.endswith(f"torchvision {torchvision.__version__}")


@pytest.mark.parametrize("words", [["resnot"], ["--costs", "maybe"], ["--nonsense", "1"]])
def test_user_errors(words: list[str]) -> None:
    with pytest.raises(UserError, match=r"resnot|costs|nonsense"):
        list_backbones.main(words)


def test_models_without_numbers_still_compute_while_they_are_built() -> None:
    """RegNet computes its widths with tensors, which have no values under torch.device("meta")."""
    with without_numbers():
        net = get_model("regnet_y_400mf")
    assert parameters(net) == 4_344_144  # published
    assert all(p.is_meta for p in net.parameters())
    assert nn.Linear(2, 2).weight.device == torch.device("cpu")

"""Checkpoints of self-supervised pretraining and of other libraries, each in the layout that its program writes."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import backbones
import classification
from backbones.base import Backbone
from backbones.errors import UserError
from backbones.weights.files import read_state
from backbones.weights.pretraining import first_encoder
from classification.model import PooledClassifier

WIDTH = 64  # channels of the last stage of resnet20


def _seeded() -> Backbone:
    torch.manual_seed(0)
    return backbones.build("resnet20", weights=None, shortcut="B").eval()


NET = _seeded()
OWN = dict(NET.state_dict())
OTHER = {name: value + 1 for name, value in OWN.items()}  # the encoder that must not be used


def under(prefix: str, state: dict[str, Tensor] = OWN) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


def mlp(prefix: str, *layers: int) -> dict[str, Tensor]:
    shapes = {"weight": (WIDTH, WIDTH), "bias": (WIDTH,)}
    return {f"{prefix}.{i}.{part}": torch.ones(shape) for i in layers for part, shape in shapes.items()}


def pair(first: str, second: str) -> dict[str, Tensor]:
    """Return two encoders, the unused one first, so that the order does not decide."""
    return {**under(second, OTHER), **under(first)}


# Layout -> content of the file, prefix of the encoder that is used, parts that the report lists as left out.
LAYOUTS: dict[str, tuple[Any, str, set[str]]] = {
    "moco_v1": (
        {
            "arch": "resnet50",
            "state_dict": {
                **pair("module.encoder_q.", "module.encoder_k."),
                **{f"module.encoder_{e}.fc.weight": torch.ones(9, WIDTH) for e in "qk"},
                **{"module.queue": torch.ones(9, 4), "module.queue_ptr": torch.zeros(1)},
            },
        },
        "module.encoder_q.",
        {"module.encoder_k", "module.queue", "module.queue_ptr"},
    ),
    "moco_v2": (
        {"state_dict": {**pair("module.encoder_q.", "module.encoder_k."), **mlp("module.encoder_q.fc", 0, 2)}},
        "module.encoder_q.",
        {"module.encoder_k"},
    ),
    "moco_v3": (
        {
            "state_dict": {
                **pair("module.base_encoder.", "module.momentum_encoder."),
                **mlp("module.base_encoder.fc", 0, 3),
                **mlp("module.momentum_encoder.fc", 0, 3),
                **mlp("module.predictor", 0, 3),
            }
        },
        "module.base_encoder.",
        {"module.momentum_encoder", "module.predictor"},
    ),
    "simclr": ({"state_dict": {**under("backbone."), **mlp("backbone.fc", 0, 2)}}, "backbone.", set()),
    "byol_of_two_state_dicts": (
        {
            "online_network_state_dict": {**under("encoder."), **mlp("projetion.net", 0, 3)},
            "target_network_state_dict": under("encoder.", OTHER),
            "predictor_network_state_dict": mlp("net", 0, 3),
            "optimizer_state_dict": {},
        },
        "encoder.",
        {"projetion"},
    ),
    "byol_of_one_state_dict": (
        {**pair("online_encoder.net.", "target_encoder.net."), **mlp("online_predictor.net", 0, 3)},
        "online_encoder.net.",
        {"target_encoder.net", "online_predictor"},
    ),
    "simsiam": (
        {"state_dict": {**under("module.encoder."), **mlp("module.encoder.fc", 0, 3), **mlp("module.predictor", 0)}},
        "module.encoder.",
        {"module.predictor"},
    ),
    "swav": (
        {**under("module."), **mlp("module.projection_head", 0, 3), "module.prototypes.weight": torch.ones(9, WIDTH)},
        "module.",
        {"module.projection_head", "module.prototypes"},
    ),
    "barlow_twins": (
        {
            "epoch": 1,
            "model": {
                **under("module.backbone."),
                **{"module.projector.0.weight": torch.ones(2, 2), "module.bn.running_mean": torch.ones(2)},
            },
        },
        "module.backbone.",
        {"module.projector", "module.bn"},
    ),
    "vicreg": (
        {"model": {**under("module.backbone."), **mlp("module.projector", 0, 3)}},
        "module.backbone.",
        {"module.projector"},
    ),
    "dino": (
        {
            "student": {**under("module.backbone.", OTHER), **mlp("module.head.mlp", 0, 2)},
            "teacher": {**under("module.backbone."), **mlp("module.head.mlp", 0, 2)},
            "optimizer": {},
            "dino_loss": {"center": torch.ones(1, 9)},
        },
        "module.backbone.",
        {"module.head"},
    ),
    "dino_in_one_state_dict": (
        pair("teacher.backbone.", "student.backbone."),
        "teacher.backbone.",
        {"student.backbone"},
    ),
    "lightly_moco": (
        {
            "state_dict": {**pair("backbone.", "backbone_momentum."), **mlp("projection_head.layers", 0, 2)},
            "hyper_parameters": {"lr": 0.1},
            "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.ones(())}},
            "loops": {"fit_loop": {"state_dict": {}}},
            "pytorch-lightning_version": "2.0.0",
        },
        "backbone.",
        {"backbone_momentum", "projection_head"},
    ),
    "lightly_dino": (
        {"state_dict": {**pair("backbone.", "student_backbone."), **mlp("student_projection_head.layers", 0)}},
        "backbone.",
        {"student_backbone", "student_projection_head"},
    ),
    "solo_learn": (
        {
            "state_dict": {
                **pair("backbone.", "momentum_backbone."),
                **mlp("projector", 0, 2),
                **mlp("momentum_projector", 0, 2),
                "queue": torch.ones(2, WIDTH, 9),
            }
        },
        "backbone.",
        {"momentum_backbone", "projector", "momentum_projector", "queue"},
    ),
    "mmpretrain": (
        {
            "meta": {"epoch": 1},
            "state_dict": {**under("backbone."), **mlp("neck.mlp", 0), "head.fc.weight": torch.ones(9, WIDTH)},
        },
        "backbone.",
        {"neck"},
    ),
    "mmselfsup_moco": (pair("encoder_q.0.", "encoder_k.module.0."), "encoder_q.0.", {"encoder_k.module.0"}),
    "query_and_key": (pair("query_encoder.", "key_encoder."), "query_encoder.", {"key_encoder"}),
    "vissl": (
        {
            "classy_state_dict": {
                "base_model": {
                    "model": {"trunk": under("_feature_blocks."), "heads": mlp("0.clf", 0)},
                    "meters": {"train": {}},
                }
            }
        },
        "_feature_blocks.",
        set(),
    ),
}


def is_same(backbone: Backbone) -> bool:
    """Return whether all features are those of the seeded network, to the last bit."""
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        features, expected = backbone.eval()(image), NET(image)
    return all(torch.equal(value, expected[name]) for name, value in features.items())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_evaluated_encoder_is_used_and_the_rest_is_named(layout: str, tmp_path: Path):
    content, prefix, parts = LAYOUTS[layout]
    path = tmp_path / "checkpoint.pth"
    torch.save(content, path)
    backbone = backbones.build("resnet20", weights=path, shortcut="B")
    report = backbone.load_report
    assert is_same(backbone) and report is not None
    assert (report.prefix, report.missing, report.unexpected) == (prefix, (), ())
    assert set(report.left_out.values()) == parts
    assert not parts or f"loaded from {prefix}*" in str(report)


def test_the_report_names_state_dicts_that_were_not_used(tmp_path: Path):
    torch.save(LAYOUTS["dino"][0], tmp_path / "dino.pth")
    report = backbones.build("resnet20", weights=tmp_path / "dino.pth", shortcut="B").load_report
    assert f"{tmp_path / 'dino.pth'} (teacher, not student or dino_loss): matched " in str(report)


def test_of_several_state_dicts_only_a_single_encoder_is_used():
    assert first_encoder(["backbone", "projector", "momentum_backbone"]) == "backbone"
    assert first_encoder(["generator", "discriminator"]) is None
    assert first_encoder(["head"]) is None


# detectron2


def detectron2(state: dict[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """Rename entries as detectron2 names them, written out for the layers of this network."""
    stages = {f"layer{i}": f"res{i + 1}" for i in (1, 2, 3)}
    layers = {"conv1": "conv1", "bn1": "conv1.norm", "conv2": "conv2", "bn2": "conv2.norm"}
    layers |= {"downsample.0": "shortcut", "downsample.1": "shortcut.norm"}
    renamed = {}
    for name, value in state.items():
        layer, entry = name.rsplit(".", 1)
        stage, _, inside = layer.partition(".")
        block, _, part = inside.partition(".")
        where = f"{stages[stage]}.{block}.{layers[part]}" if stage in stages else f"stem.{layers[layer]}"
        if entry != "num_batches_tracked":  # detectron2's frozen batch norm has none
            renamed[f"{prefix}{where}.{entry}"] = value
    return renamed


@pytest.mark.parametrize("prefix", ["", "backbone.bottom_up."])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_detectron2s_pickles_of_arrays_load(prefix: str, protocol: int, tmp_path: Path):
    arrays = {name: value.numpy() for name, value in detectron2(OWN, prefix).items()}
    arrays["proposal_generator.anchors"] = np.ones(3, ">f4")
    path = tmp_path / "R.pkl"
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "torchvision"}, protocol))
    with pytest.raises(UserError, match=r"has detectron2's names, .* add weights_from='detectron2' for its own"):
        backbones.build("resnet20", weights=path, shortcut="B")
    backbone = backbones.build("resnet20", weights=path, shortcut="B", weights_from="torchvision")
    report = backbone.load_report
    assert is_same(backbone) and report is not None
    assert (report.missing, report.unexpected) == ((), ("proposal_generator.anchors",))
    assert str(report).endswith("from torchvision: R, G, B, mean and std of ImageNet, stride v1.5")


def test_detectron2s_checkpoint_of_tensors_and_its_classifier_load(tmp_path: Path):
    fc = {"fc.weight": torch.rand(3, WIDTH), "fc.bias": torch.rand(3)}
    torch.save({"model": {**detectron2(OWN), **{f"stem.{k}": v for k, v in fc.items()}}}, tmp_path / "model_final.pth")
    file = tmp_path / "model_final.pth"
    model = classification.build("resnet20", 3, weights=file, shortcut="B", weights_from="moco")
    assert isinstance(model, PooledClassifier) and is_same(model.backbone)
    assert torch.equal(model.fc.weight, fc["fc.weight"]) and torch.equal(model.fc.bias, fc["fc.bias"])


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize(
    "array", [np.arange(6.0).reshape(2, 3), np.asfortranarray(np.arange(6, dtype=">i2").reshape(2, 3))]
)
def test_arrays_keep_values_order_and_type(array: np.ndarray, protocol: int, tmp_path: Path):
    path = tmp_path / "arrays.pkl"
    path.write_bytes(pickle.dumps({"model": {"w": array, "names": np.array(["a"])}}, protocol))
    assert {name: value.tolist() for name, value in read_state(path).items()} == {"w": [[0, 1, 2], [3, 4, 5]]}
    assert read_state(path)["w"].dtype == torch.from_numpy(array.astype(array.dtype.newbyteorder("="))).dtype


class _Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("inside_array", [False, True])
def test_a_plain_pickle_that_would_run_code_is_refused(protocol: int, inside_array: bool, tmp_path: Path):
    evil: Any = _Malicious(tmp_path / "ran")
    content = {"model": {"w": np.ones(2)}, "evil": np.array([evil], dtype=object) if inside_array else evil}
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps(content, protocol))
    with pytest.raises(UserError, match=r"would run code \(\w+\.system\)") as error:
        read_state(path)
    assert "\n" not in str(error.value) and not (tmp_path / "ran").exists()

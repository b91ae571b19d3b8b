"""The models to analyse: registered backbones with random weights, and models of finished runs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from backbones.common.files import JsonObject
from backbones.common.run_files import MODEL_FILE
from backbones.errors import UserError, counted
from classification.model import Classifier
from classification.options import ClassifierOptions
from classification.trained import build_from_options
from tools.analysis.batch import read_batch
from tools.analysis.plots import INITIAL, TRAINED, MeasuredModel
from tools.analysis.responses import measure
from tools.engine.checkpoint import read_safetensors

SHAPE_OPTIONS = ("norm", "shortcut")  # options of a run that shape its model


@dataclass(frozen=True)
class AnalysedModel:
    """A classification model, described so that it can be built and measured.

    Attributes:
        name: its name in legends and tables.
        options: the options that it is built with.
        weights: file of its trained weights; None for a model that has only random weights.
        classes: number of classes that it was trained on; None for the number of classes of the data.
        trained_input: the input that it was trained on, as far as its file has it: `in_channels`, `crop_size`, `mean`,
            `std`, `bits`.
    """

    name: str
    options: ClassifierOptions
    weights: Path | None
    classes: int | None
    trained_input: JsonObject


def random_model(backbone: str) -> AnalysedModel:
    """Describe a classifier with a registered backbone and random weights. The data set its number of classes."""
    return AnalysedModel(backbone, ClassifierOptions(backbone, weights="none"), None, None, {})


def trained_model(folder: Path) -> AnalysedModel:
    """Describe the classifier of a finished run, from the header of its model.safetensors.

    Raises:
        UserError: for a folder without weights, or with the weights of another task.
    """
    path = folder / MODEL_FILE
    if not path.is_file():
        raise UserError(f"--runs {folder}: has no model.safetensors; finish the run, or name another folder")
    header, tensors = read_safetensors(path)
    config = json.loads(header.get("config", "{}"))
    if "backbone" not in config or "fc.weight" not in tensors:
        raise UserError(f"{path}: is not the model of a classification run; name a run folder of train_cls.py")
    shape = {name: config[name] for name in SHAPE_OPTIONS if config.get(name) not in (None, "auto")}
    options = ClassifierOptions(config["backbone"], weights="none", **shape)
    trained_input = json.loads(header.get("meta", "{}")).get("input", {})
    return AnalysedModel(folder.name, options, path, len(tensors["fc.weight"]), trained_input)


def measure_model(
    model: AnalysedModel,
    *,
    data: Path | None,
    images: int,
    size: int | None,
    bits: int | None,
    seed: int,
    device: torch.device,
) -> list[MeasuredModel]:
    """Measure the responses of a model with random weights and, for a trained model, also with its trained weights.

    Args:
        data: folder with train/CLASS/*; None for the built-in shapes.
        images: number of images in the batch.
        size: side of the images in pixels; None for the model's crop size, or the shorter side of the first image.
        bits: bits that the values of 16-bit images use, unless the run recorded them.
        seed: seed of the random weights.
        device: where the model computes.

    Raises:
        UserError: if the number of classes of the data differs from that of a trained model.
    """
    backbone = build(model, model.classes or 1, seed=seed).backbone
    size = size or model.trained_input.get("crop_size")
    batch, labels, classes = read_batch(
        data, images, size=size, backbone=backbone, bits=model.trained_input.get("bits", bits)
    )
    if model.classes not in (None, classes):
        raise UserError(
            f"{model.name}: was trained on {counted(model.classes or 0, 'class')}, but the data "
            f"({data or 'the built-in shapes'}) has {classes}; name the model's own data with --data"
        )
    net = build(model, classes, seed=seed).to(device)
    batch, labels = batch.to(device), labels.to(device)
    measured = [MeasuredModel(model.name, INITIAL, measure(net, batch, labels))]
    if model.weights:
        net.load_state_dict(read_safetensors(model.weights)[1])
        measured.append(MeasuredModel(model.name, TRAINED, measure(net, batch, labels)))
    return measured


def build(model: AnalysedModel, classes: int, *, seed: int) -> Classifier:
    """Build a classification model. Its random weights are determined by `seed`."""
    torch.manual_seed(seed)
    in_channels = model.trained_input.get("in_channels") or 3
    net = build_from_options(model.options, None, num_classes=classes, in_channels=in_channels)
    mean, std = (model.trained_input.get(name, getattr(net.backbone, name)) for name in ("mean", "std"))
    net.backbone.set_normalisation(mean, std)
    return net

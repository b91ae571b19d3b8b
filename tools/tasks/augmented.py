"""Draws training images as an augmentation shows them to a detector."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
from PIL import Image

from backbones.errors import UserError
from detection.data.dataset import CocoDetection
from detection.data.folders import read_annotations
from detection.draw import draw_sheet
from detection.options import DetectionDataOptions
from detection.transforms import Augment
from tools.synthetic import shapes
from tools.tasks.samples import sample_stretches


def augmented_sheet(data: DetectionDataOptions, augment: Augment, *, rows: int, views: int) -> Image.Image:
    """Draw a sheet with one image in each row: as it is, and augmented as in the first epochs.

    Args:
        data: the data set; the built-in shapes by default.
        rows: number of images, spread evenly over the training split, those with many objects first.
        views: number of epochs.

    Raises:
        UserError: files are missing or malformed, or the augmentation needs masks and there are none.
    """
    if data.data is None and data.annotations is None and data.train_annotations is None:
        data = replace(data, data=str(shapes.prepare()))
    masks: bool | Literal["where present"] = augment.masks or ("where present" if augment.pastes else False)
    truth = read_annotations(data, "train", masks=masks)
    if augment.pastes and not (truth.masks and len(truth.masks.text)):
        raise UserError(f"--augment {augment.preset}: copy_paste needs masks, but no object of {truth.path} has one")
    indices = np.arange(len(truth))[: data.limit]
    augmented = CocoDetection(truth, augment, indices=indices, bits=data.bits, boxes_only=not augment.masks)
    plain = CocoDetection(truth, Augment("eval"), indices=indices, bits=data.bits, boxes_only=not augment.masks)
    objects = np.bincount(truth.objects(indices)[0], minlength=len(indices))
    chosen = [int(stretch[0]) for stretch in sample_stretches(objects, rows)]
    items = [[plain[index], *(augmented[epoch, index] for epoch in range(views))] for index in chosen]
    drawn = [
        [
            (image.permute(1, 2, 0).numpy(), {name: value.numpy() for name, value in target.items()})
            for image, target in row
        ]
        for row in items
    ]
    return draw_sheet(drawn, ["as it is", *(f"epoch {epoch}" for epoch in range(views))], truth.categories.names)

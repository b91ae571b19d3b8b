"""Public functions refuse unknown keywords by name, and take whole numbers of any type."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import backbones
import classification
import detection
import segmentation
from backbones.common.numeric import whole_number
from backbones.errors import UserError


@pytest.mark.parametrize(
    "function, known",
    [
        (backbones.build, "output_stride"),
        (classification.build, "shortcut"),
        (detection.build, "score_threshold"),
        (segmentation.build, "max_stride"),
        (classification.load, "top"),
        (detection.load, "nms"),
        (segmentation.load, "overlap"),
    ],
)
def test_an_unknown_keyword_is_named_with_those_that_exist(function: Callable[..., Any], known: str):
    package = function.__module__.split(".")[0]
    with pytest.raises(
        UserError, match=rf"{package}\.(build|load): unknown keyword 'colour'; .*keywords are .*{known}"
    ):
        function("resnet20", colour=0.5)


@pytest.mark.parametrize(
    ("load", "given", "expected"),
    [
        (segmentation.load, {"scales": 0.5}, "scales=0.5: expected a list of numbers"),
        (segmentation.load, {"scales": [1, math.nan]}, "scales=[1, nan]: expected a list of numbers"),
        (segmentation.load, {"overlap": math.inf}, "overlap=inf: expected a number"),
        (segmentation.load, {"tile": "256"}, "tile='256': expected a whole number"),
        (segmentation.load, {"flip": "no"}, "flip='no': expected true or false"),
        (detection.load, {"sizes": "640"}, "sizes='640': expected a list of numbers"),
        (detection.load, {"nms": [0.5]}, "nms=[0.5]: expected a number"),
        (classification.load, {"top": 2.5}, "top=2.5: expected a whole number"),
        (segmentation.load, {"overlap": 10**400}, f"overlap={10**400}: expected a number"),
    ],
)
def test_a_value_of_another_type_is_named_and_not_the_file(load: Callable[..., Any], given: dict, expected: str):
    with pytest.raises(UserError, match=f"^{re.escape(expected)}$"):
        load("run", **given)


def test_iterators_are_no_lists_of_numbers():
    scales = iter([0.5, 1])
    with pytest.raises(UserError, match=f"^{re.escape(f'scales={scales!r}: expected a list of numbers')}$"):
        segmentation.load("run", scales=scales)


def test_numbers_of_other_libraries_are_taken_for_options():
    options = {
        "tile": np.int64(64),
        "scales": np.array([0.5, 1.0]),
        "flip": np.bool_(True),
        "overlap": torch.tensor(0.2),
    }
    with pytest.raises(UserError, match="no such run folder or weights file"):
        segmentation.load("run", **options, min_size=None)


def test_whole_numbers_of_other_libraries_are_taken():
    for five in (5, np.int64(5), np.uint8(5), torch.tensor(5)):
        assert type(whole_number("n", five)) is int
    assert classification.build("resnet20", np.int64(5), in_channels=np.int32(1)).fc.out_features == 5
    assert detection.build("resnet18", np.int64(2), neck="c4").roi_heads.box_predictor.cls_score.out_features == 3
    assert segmentation.build("resnet18", np.int64(2), head="fcn32s")
    model = backbones.build("resnet20", weights=None)
    model.freeze_stages(np.int64(1))
    assert model.frozen_stages == 1


@pytest.mark.parametrize("value", [2.0, True, "2", None, 1, 9])
def test_other_values_are_no_whole_numbers(value: object):
    with pytest.raises(UserError, match=r"n=.*: expected a whole number from 2 to 8"):
        whole_number("n", value, least=2, most=8)


@pytest.mark.parametrize(
    "name, found",
    [
        ("wide_resnet50_2", "torchvision/wide_resnet50_2 or timm/wide_resnet50_2"),
        ("resnet50d", "timm/resnet50d"),
        ("seresnet50.a1_in1k", "timm/seresnet50.a1_in1k"),
    ],
)
def test_a_bare_name_of_a_library_is_suggested_with_its_prefix(name: str, found: str):
    with pytest.raises(UserError, match=rf"unknown backbone '{name}': did you mean {found}\?$"):
        backbones.build(name, weights=None)

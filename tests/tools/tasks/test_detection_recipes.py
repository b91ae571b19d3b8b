"""Recipes of detection: which one is chosen, and what each file states."""

from __future__ import annotations

import re

import pytest
import yaml
from conftest import ROOT

from tools.cli.parsing import parse
from tools.tasks.options import TrainDetectorOptions, describe_detector_recipe, detector_recipe

FOLDER = ROOT / "detection" / "recipes"
CHOICES = {
    "": ("shapes", "no data is given"),
    "--data x": ("coco", "data is given"),
    "--annotations a.json --images x": ("coco", "data is given"),
    "--data x --recipe small": ("small", "--recipe names it"),
    "--recipe coco-lsj": ("coco-lsj", "--recipe names it"),
}


@pytest.mark.parametrize("words", CHOICES)
def test_the_plan_names_the_recipe_and_says_why(words: str):
    name, why = CHOICES[words]
    options = parse(TrainDetectorOptions, description="", argv=words.split(), recipe=detector_recipe)
    recipe = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    assert options.train.batch_size == recipe["batch_size"] and options.model.min_size == recipe["min_size"]
    assert describe_detector_recipe(options).startswith(f"{name}: {why}")


@pytest.mark.parametrize("name", ["coco", "coco-lsj", "small"])
def test_a_recipe_states_batch_memory_hours_and_ap(name: str):
    text = (FOLDER / f"{name}.yaml").read_text()
    stated = {fact: re.search(rf"{fact}: (.+)", text) for fact in ("Batch", "Memory", "Hours", "AP")}
    assert all(stated.values()), stated
    assert f"{yaml.safe_load(text)['batch_size']}" in stated["Batch"][1]
    assert re.search(r"\d GB", stated["Memory"][1]) and re.search(r"\d on (one|\d+) V100", stated["Hours"][1])

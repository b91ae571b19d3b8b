"""Classes are merged, renamed and chosen by name; ids stay those of the data, and near names are suggested."""

from __future__ import annotations

from pathlib import Path

import pytest

from backbones.common.categories import map_records
from backbones.common.category_options import CategoryOptions
from backbones.errors import UserError

NAMES = {2: "car", 3: "truck", 5: "bus", 7: "person", 9: "Tv Monitor"}


def mapped(**options) -> tuple[dict[int, str], list[int], int]:
    """Return the categories, the category of each annotation, and the number of dropped annotations."""
    data = {
        "categories": [{"id": key, "name": name, "supercategory": "x"} for key, name in NAMES.items()],
        "annotations": [{"id": place, "category_id": key} for place, key in enumerate([2, 3, 5, 7, 9, 3])],
        "images": [],
    }
    found = map_records(data, CategoryOptions(**options), Path("a.json"))
    assert all(category["supercategory"] == "x" for category in found.data["categories"])
    categories = {category["id"]: category["name"] for category in found.data["categories"]}
    return categories, [each["category_id"] for each in found.data["annotations"]], found.dropped


def test_a_union_has_the_id_of_the_class_of_its_name_or_else_the_smallest():
    assert mapped(merge_classes="bus=car, truck,bus") == (
        {5: "bus", 7: "person", 9: "Tv Monitor"},
        [5, 5, 5, 7, 9, 5],
        0,
    )
    categories, annotations, _ = mapped(merge_classes="vehicle=truck,bus; screen=Tv Monitor")
    assert categories == {2: "car", 3: "vehicle", 7: "person", 9: "screen"}
    assert annotations == [2, 3, 3, 7, 9, 3]


def test_classes_are_merged_then_renamed_then_chosen():
    options = {"merge_classes": "vehicle=truck,bus", "rename": "vehicle=lorry,person=human"}
    assert mapped(**options, classes="lorry,human") == ({3: "lorry", 7: "human"}, [3, 3, 7, 3], 2)
    assert mapped(**options, drop_classes="car") == (
        {3: "lorry", 7: "human", 9: "Tv Monitor"}, [3, 3, 7, 9, 3], 1
    )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": "cars"}, r"--classes cars: a\.json has no class of this name; did you mean car"),
        ({"drop_classes": "tv monitor"}, "did you mean Tv Monitor"),
        ({"classes": "zebra"}, "its classes are Tv Monitor, bus, car, person, truck"),
        ({"merge_classes": "person=car,truck"}, "has a class person; list it as well"),
        ({"merge_classes": "a=car;b=car"}, "lists car twice"),
        ({"merge_classes": "car,truck"}, "expected NEW=OLD,OLD"),
        ({"rename": "car"}, "--rename car: expected OLD=NEW"),
        ({"rename": "car=truck"}, "two classes would have the name truck; unite them with --merge-classes"),
        ({"classes": "car", "drop_classes": "bus"}, "--drop-classes bus: cannot be combined with --classes"),
        ({"drop_classes": ",".join(NAMES.values())}, r"leaves no class of a\.json"),
    ],
)
def test_wrong_names_are_refused_with_a_way_out(options: dict, message: str):
    with pytest.raises(UserError, match=message):
        mapped(**options)

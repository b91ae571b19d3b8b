"""Joins the records of several annotation files of one split, such as those of several annotators."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from backbones.common.datasets import Record
from backbones.errors import UserError
from detection.data.layouts.base import Reading
from detection.data.layouts.collector import NoImageError
from detection.data.truth import Truth

SAME = "images that several annotation files hold with the same objects, read once"
NO_IMAGE = "annotation files without an image that can be read, which are left out"
EMPTY = "images that another annotation file holds with objects, which is read instead"


class _Part:
    """The records of one annotation file, by image.

    Args:
        truth: the records, as a `Collector` returns them.
    """

    def __init__(self, truth: Truth) -> None:
        self.truth = truth
        self.titles = {category["id"]: category["name"] for category in truth.data["categories"]}
        self._places: dict[int, list[int]] = {}
        for place, record in enumerate(truth.data["annotations"]):
            self._places.setdefault(record["image_id"], []).append(place)

    def objects(self, image: Record) -> list[tuple[Record, int]]:
        """Return the annotations of an image and their positions in the file."""
        places = self._places.get(image["id"], [])
        return [(self.truth.data["annotations"][place], self.truth.ordinals[place]) for place in places]

    def content(self, image: Record) -> list[str]:
        """Return class, box and outline of the objects of an image, sorted, to compare two files."""
        records = (record for record, _ in self.objects(image))
        return sorted(f"{self.titles[r['category_id']]} {r['bbox']} {r.get('segmentation')}" for r in records)

    def file(self, image: Record) -> str:
        """Return the annotation file of an image."""
        return self.truth.files[image["id"] - 1]


Owner = tuple[_Part, Record]  # a file, and its record of an image


def read_and_join(files: Iterable[Path], read: Callable[[Path], Truth], how: Reading) -> Truth:
    """Read files and join them; see `join_files`. Files without an image are left out and counted, unless all are.

    Args:
        read: reads one of the files.

    Raises:
        UserError: no file has an image, or an error of `read` or `how.on_problem`.
    """
    truths: list[Truth] = []
    without: list[NoImageError] = []
    for file in files:
        try:
            truths.append(read(file))
        except NoImageError as error:
            without.append(error)
    if not truths:
        raise without[0]
    joined = join_files(truths, how)
    for each in without:
        joined.notes.update({**each.notes, NO_IMAGE: 1})
    return joined


def join_files(truths: Sequence[Truth], how: Reading) -> Truth:
    """Return the records of all files as those of one split.

    Those of a single file stay as they are. An image that several files hold is read once, from the first file in which
    it has objects.

    Args:
        truths: the records of each file, as a `Collector` returns them.
        how: what to do about an image that has different objects in two files.

    Raises:
        UserError: `how.on_problem` raises it.
    """
    if len(truths) == 1:
        return truths[0]
    notes = sum((truth.notes for truth in truths), Counter[str]())
    owners: dict[str, Owner] = {}
    for part in map(_Part, truths):
        for image in part.truth.data["images"]:
            former = owners.setdefault(image["file_name"], (part, image))
            if former[0] is not part:
                owners[image["file_name"]] = _chosen(former, (part, image), notes, how)
    joined = replace(truths[0], path=truths[0].path.parent, notes=notes, passed_over=_passed_over(truths))
    joined.renamed.update({file: name for truth in truths for file, name in truth.renamed.items()})
    return _renumbered(joined, truths, owners.values())


def _chosen(first: Owner, second: Owner, notes: Counter[str], how: Reading) -> Owner:
    """Return which of two records of an image to read, and count or report why."""
    (one, image), (other, again) = first, second
    here, there = one.content(image), other.content(again)
    if here and there and here != there:
        text = (
            f"the image {image['file_name']} has other objects in {one.file(image)}; keep one of the files, or fix one"
        )
        how.on_problem("malformed annotation", other.file(again), UserError(f"{other.file(again)}: {text}"))
        return first
    notes[SAME if here == there else EMPTY] += 1
    return first if here or not there else second


def _renumbered(joined: Truth, truths: Sequence[Truth], owners: Iterable[Owner]) -> Truth:
    """Return `joined` with the records of all owners, whose images, annotations and categories get new ids."""
    names = dict.fromkeys(category["name"] for truth in truths for category in truth.data["categories"])
    numbers = {name: number for number, name in enumerate(names, 1)}
    images: list[Record] = []
    annotations: list[Record] = []
    files, ordinals = list[str](), list[int]()
    for part, image in owners:
        images.append({**image, "id": len(images) + 1})
        files.append(part.file(image))
        for record, ordinal in part.objects(image):
            category = numbers[part.titles[record["category_id"]]]
            own = {"id": len(annotations) + 1, "image_id": len(images), "category_id": category}
            annotations.append({**record, **own})
            ordinals.append(ordinal)
    categories = [{"id": number, "name": name} for name, number in numbers.items()]
    data = {"images": images, "annotations": annotations, "categories": categories}
    return replace(joined, data=data, files=files, ordinals=ordinals)


def _passed_over(truths: Sequence[Truth]) -> Counter[str]:
    """Return the number of files by suffix that are neither images nor one of the annotation files."""
    others = (truth.path for truth in truths[1:] if truth.path.is_relative_to(truth.folder))
    return Counter(truths[0].passed_over) - Counter(path.suffix.lower() for path in others)

"""Reads Pascal VOC's layout: `ImageSets/Main/SPLIT.txt` lists image names, and `Annotations/NAME.xml` contains boxes.

hotcoco reads and writes this layout too, but loses data. It truncates names that contain `&amp;`, rounds to whole
pixels when it writes, accepts NaN and absent sizes, and ignores the lists.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree.ElementTree import Element

from backbones.common.datasets import Record, leads_out
from backbones.common.images import image_size
from backbones.common.listing import is_file, visible
from backbones.common.spellings import spellings_of
from backbones.errors import UserError, shortened
from detection.data.layouts.base import LAYOUTS, Layout, Reading, Sign
from detection.data.layouts.images import UNSPLIT
from detection.data.layouts.instance_maps import add_masks
from detection.data.layouts.voc_objects import add_objects, as_decimal
from detection.data.layouts.xml_files import parse_xml, read_bytes
from detection.data.truth import (
    FolderImages,
    ProblemHandler,
    Truth,
    read_names,
    read_text,
    unknown_size,
)

LISTS = Path("ImageSets", "Main")
INSTANCES = "SegmentationObject"  # folder of instance maps
FLAGS = ("-1", "0", "1")  # after each name in the lists of single classes: "000005 -1"


@dataclass(frozen=True)
class VocPlaces:
    """Folders and files of a split.

    Attributes:
        layout: name of the layout.
        path: list or folder to name in messages.
        annotations: folder of the XML files.
        images: folder of the images.
        classes: file that lists the classes; None for the names of all objects, sorted.
        others: further XML files whose objects have classes.
        maps: folder of instance maps NAME.png, in which the object of ordinal n has the value n; None if there is none.
        groups: split of each XML file; the files without one are grouped by their folder.
    """

    layout: str
    path: Path
    annotations: Path
    images: Path
    classes: Path | None
    others: Collection[Path]
    maps: Path | None = None
    groups: Mapping[Path, object] = field(default_factory=dict)


@LAYOUTS.register("voc")
class VocLayout(Layout):
    """Pascal VOC's own layout, or a folder that holds nothing else, such as VOCdevkit."""

    name = "voc"
    form = "Pascal VOC's Annotations, JPEGImages and ImageSets/Main/SPLIT.txt"

    def signs(self, root: Path) -> Iterator[Sign]:
        root = _home(root)
        yield "a folder Annotations", (root / "Annotations").is_dir()
        yield "a folder ImageSets/Main", any(visible(root / LISTS, "*.txt"))

    def splits(self, root: Path) -> list[str]:
        """Return the names of the lists, without the lists of single classes such as `cat_train.txt`."""
        names = {path.stem for path in visible(_home(root) / LISTS, "*.txt")}
        if names == {"default"}:  # CVAT's name of data that is not split
            return [UNSPLIT]
        return sorted(name for name in names if not any(name.endswith(f"_{other}") for other in names))

    def has_split(self, root: Path, name: str) -> bool:
        return (_home(root) / LISTS / f"{name}.txt").is_file()

    def read(self, root: Path, split: str, how: Reading) -> Truth:
        root = _home(root)
        folder, listed = root / "Annotations", root / "classes.txt"
        names = _listed(root, split, how.on_problem)
        others = set(visible(folder, "**/*.xml"))
        classes = listed if listed.is_file() else None
        path, groups = root / LISTS / f"{split}.txt", _groups(root, self.splits(root))
        maps = root / INSTANCES if (root / INSTANCES).is_dir() else None
        places = VocPlaces("voc", path, folder, root / "JPEGImages", classes, others, maps, groups)
        return read_voc_files(places, names, how)


def _home(root: Path) -> Path:
    """Return the folder of a data set that is named by itself, by VOCdevkit, or by the parent of VOCdevkit.

    Raises:
        UserError: VOCdevkit holds several data sets.
    """
    if (root / "Annotations").is_dir():
        return root
    patterns = (
        ("*/Annotations/",) if root.name == "VOCdevkit" else ("VOC[12]*/Annotations/", "VOCdevkit/*/Annotations/")
    )
    found = [path.parent for pattern in patterns for path in visible(root, pattern)]
    found = sorted(path for path in found if (path / LISTS).is_dir())
    if len(found) > 1:
        names = ", ".join(str(path) for path in found)
        raise UserError(f"--data {root}: holds {len(found)} data sets of VOC; name one of them ({names})")
    return found[0] if found else root


def read_voc_files(places: VocPlaces, names: Sequence[str], how: Reading) -> Truth:
    """Read XML files with their images. A `difficult` object gets `iscrowd` 1.

    VOC counts pixels from 1 and includes the last one: columns 11 to 30 begin at 10 and are 20 wide.

    Args:
        names: names of the XML files below `places.annotations`, without suffix.

    Raises:
        UserError: a folder cannot be read, or `how.on_problem` raises the error of a record.
    """
    on_problem, found = how.on_problem, FolderImages.of(places.images)
    trees, classes, spellings = _parse(places, names, on_problem)
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, 1)]
    passed_over = Counter(found.passed_over)
    if places.images == places.annotations:
        del passed_over[".xml"]
    truth = Truth(
        places.layout,
        places.path,
        places.images,
        {"images": [], "annotations": [], "categories": categories},
        passed_over=passed_over,
        word="object",
    )
    owners: dict[str, str] = {}
    for name in (name for name in names if name in trees):
        path = places.annotations / f"{name}.xml"
        try:
            image = _image_record(trees[name], name, path, truth, found.by_stem, owners, how.absent_images)
        except UserError as error:
            on_problem("malformed annotation", str(path), error)
            continue
        owners[image["file_name"]] = name
        truth.files.append(str(path))
        truth.data["images"].append({"id": len(truth.files), **image})
        add_objects(trees[name], path, classes, truth, on_problem, spellings=spellings)
        if how.masks and places.maps is not None:
            add_masks(places.maps / f"{name}.png", truth, on_problem)
    return truth


def _listed(root: Path, split: str, on_problem: ProblemHandler) -> list[str]:
    """Return the image names that a split's list contains, in order."""
    path = root / LISTS / f"{split}.txt"
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in visible(path.parent, "*.txt"))) or "none"
        raise UserError(f"{path}: no such list of images; name one of the existing lists ({there})")
    lines = [line.strip() for line in read_text(path).splitlines()]
    if not any(lines):
        raise UserError(f"{path}: lists no image; name another list")
    names: dict[str, None] = {}
    for number, line in enumerate(lines, 1):
        name = _name_in(line, root)
        if not name:
            continue
        try:
            if leads_out(name) or "\0" in name:
                raise UserError(
                    f"{path}: line {number}: {shortened(name)!r} points outside the folder Annotations; fix the line"
                )
            if name in names:
                raise UserError(f"{path}: line {number}: {name} is a duplicate; remove the line")
            if not is_file(root / "Annotations" / f"{name}.xml"):
                raise UserError(
                    f"{path}: line {number}: there is no Annotations/{shortened(name)}.xml; add that file or fix the "
                    "list"
                )
        except UserError as error:
            on_problem("malformed list", str(path), error)
            continue
        names[name] = None
    return list(names)


def _name_in(line: str, root: Path) -> str:
    """Return the image name of a line, without the flag that lists of single classes have."""
    name, _, flag = line.rpartition(" ")
    if not name or flag not in FLAGS or is_file(root / "Annotations" / f"{line}.xml"):
        name = line
    return name.strip()


def _groups(root: Path, splits: Sequence[str]) -> dict[Path, object]:
    """Return for each listed XML file the names of all lists that contain it, such as train and trainval."""
    found: dict[Path, frozenset[str]] = {}
    for split in splits:
        try:
            lines = read_text(root / LISTS / f"{split}.txt").splitlines()
        except UserError:
            continue  # reading the split reports it
        for line in lines:
            path = root / "Annotations" / f"{_name_in(line.strip(), root)}.xml"
            found[path] = found.get(path, frozenset()) | {split}
    return dict(found)


def _parse(
    places: VocPlaces, wanted: Sequence[str], on_problem: ProblemHandler
) -> tuple[dict[str, Element], list[str], dict[str, str]]:
    """Return the root elements of the wanted files by name, the classes, and their names by other spellings.

    Without a list of classes, the other files are parsed as well to find the classes.
    """
    given = None if places.classes is None else read_names(places.classes)
    trees: dict[str, Element] = {}
    seen: dict[object, set[str]] = {}  # class names by the split or folder of the files
    names = {places.annotations / f"{name}.xml": name for name in wanted}
    for path in sorted(names.keys() if given else {*names, *places.others}):
        try:
            tree = parse_xml(read_bytes(path), path)
            if tree.tag != "annotation":
                raise UserError(
                    f"{path}: begins with <{tree.tag}>, not <annotation>; replace it by an annotation file of VOC"
                )
        except UserError as error:
            if path in names:  # other files are read for their class names only
                on_problem("malformed annotation", str(path), error)
            continue
        found = {(thing.findtext("name") or "").strip() for thing in tree.iterfind("object")}
        seen.setdefault(places.groups.get(path, path.parent), set()).update(found - {""})
        if path in names:
            trees[names[path]] = tree
    spellings = spellings_of(seen.values(), given or ())
    union = {spellings.get(name, name) for own in seen.values() for name in own}
    return trees, given or sorted(union), spellings


def _image_record(
    tree: Element,
    name: str,
    path: Path,
    truth: Truth,
    images: dict[str, list[str]],
    owners: dict[str, str],
    absent: str,
) -> Record:
    """Return the COCO record of the image to which an annotation file belongs: file name, width and height.

    Args:
        tree, name, path: root element, name without suffix and path of the annotation.
        truth: records of the split, which count what is read in another way than it is written.
        images: names of the image files by name without suffix.
        owners: names of the annotations so far, by their image file.
        absent: "error" or "keep" for a missing image file.

    Raises:
        UserError: the image is missing, ambiguous or used twice, or its size is malformed.
    """
    file = _image_of(tree, name, path, images, absent, truth)
    if file in owners:
        raise UserError(
            f"{path}: names the same image {file} as {owners[file]}.xml; fix <filename> in one of the two files"
        )
    height, width = _size(tree, path, truth.folder / file, absent)
    return {"file_name": file, "width": width, "height": height}


def _image_of(tree: Element, name: str, path: Path, images: dict[str, list[str]], absent: str, truth: Truth) -> str:
    """Return the image file that belongs to an annotation file, by its name or by its <filename>."""
    named = (tree.findtext("filename") or "").strip()
    own = images.get(name, [])
    if leads_out(named) or "\0" in named:
        if len(own) != 1:
            raise UserError(f"{path}: <filename> {named!r} leads out of {truth.folder.name}; fix <filename>")
        truth.notes["paths in <filename> replaced by the image of the same name as the XML file"] += 1
        return own[0]
    beside = [file for file in own if "/" in name and file.rpartition("/")[2] == named]
    if len(beside) == 1:  # in folders of images, tools write the name without the folder
        return beside[0]
    stem = named.rpartition(".")[0] or named
    there = named in images.get(stem, [])
    if there and own and named not in own:
        raise UserError(
            f"{path}: <filename> is {named}, but {truth.folder.name}/{own[0]} has the name of this annotation file; "
            "name the right image in <filename>"
        )
    if there:
        return named
    if len(own) > 1:
        raise UserError(f"{path}: the images {own[0]} and {own[1]} both have its name; name one of them in <filename>")
    ends = images.get(stem.replace("\\", "/").rpartition("/")[2], [])
    if not own and len(ends) == 1:
        truth.renamed[ends[0]] = named
        return ends[0]
    if not own and absent == "error":
        missing = f"{truth.folder.name}/{named or name + '.jpg'}"
        raise UserError(f"{path}: there is no {missing}; add the image, or pass --on-bad-image skip")
    return own[0] if own else named or f"{name}.jpg"


def _size(tree: Element, path: Path, image: Path, absent: str) -> tuple[int, int]:
    """Return an image's height and width according to <size>, or else to the image file."""
    texts = [(tree.findtext(f"size/{side}") or "0").strip() for side in ("height", "width")]
    sides = [as_decimal(text) for text in texts]
    for text, side in zip(texts, sides, strict=True):
        if side is None or side < 0 or side != int(side):
            raise UserError(f"{path}: <size> holds {text[:40]!r}, not a whole number of pixels; fix <size>")
    height, width = (int(side or 0) for side in sides)
    if height and width:
        return height, width
    try:
        return image_size(image, apply_exif=True)
    except UserError as error:
        if absent == "error":
            raise UserError(f"{path}: has no <size>, and {error}") from None
        return unknown_size()

"""Pascal VOC's folders: `ImageSets/Main/SPLIT.txt` lists names, `Annotations/NAME.xml` has their boxes.

hotcoco reads and writes this layout too, but loses what it can hold: of a name with `&amp;` it keeps the end, and in
writing it rounds to whole pixels; NaN and absent sizes pass, lists are not looked at.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Literal
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from backbones.common.datasets import Record, is_text, leads_out
from backbones.common.images import image_size
from backbones.errors import UserError
from detection.data.truth import Note, Truth, images_below, read_names, read_text, refuse

LISTS = Path("ImageSets", "Main")
FLAGS = ("-1", "0", "1")  # of a class's own lists: "000005 -1"
CORNERS = ("xmin", "ymin", "xmax", "ymax")
FURTHEST = 2**31  # pixels
DEEPEST = 20  # elements within elements; VOC has five
KEPT = ("pose", "truncated", "occluded")  # what COCO's records can carry along


def is_voc_folder(root: Path) -> bool:
    """Whether a data set is laid out like Pascal VOC's detection sets."""
    return (root / "Annotations").is_dir() and (root / LISTS).is_dir()


def read_voc(
    root: Path, split: str, *, absent_images: Literal["error", "keep"] = "error", note: Note = refuse
) -> Truth:
    """The images of a list with their objects; those that are `difficult` have `iscrowd` 1.

    VOC counts pixels from 1 and includes the last: columns 11 to 30 begin at 10 and are 20 wide. The classes are
    those of `classes.txt`, or else the names in all of `Annotations`, sorted.

    Args:
        absent_images: whether every image must be there.
        note: what to do about a problem; a record with one is left out.

    Raises:
        UserError: for a list that cannot be read, and, by `note`, for what else is malformed.
    """
    images, names = images_below(root / "JPEGImages"), _listed(root, split, note)
    trees, classes = _parse(root, set(names), note)
    truth = Truth(
        "voc",
        root / LISTS / f"{split}.txt",
        root / "JPEGImages",
        {
            "images": [],
            "annotations": [],
            "categories": [{"id": number, "name": name} for number, name in enumerate(classes, 1)],
        },
    )
    owners: dict[str, str] = {}
    for name in names:
        path = root / "Annotations" / f"{name}.xml"
        tree = trees.get(name)
        if tree is None:
            continue
        try:
            file = _image_of(tree, name, path, images, absent_images)
            if file in owners:
                raise UserError(
                    f"{path}: names the image {file}, as {owners[file]}.xml does; mend the <filename> of one"
                )
            height, width = _size(tree, path, truth.folder / file, absent_images)
        except UserError as error:
            note("malformed annotation", str(path), error)
            continue
        owners[file] = name
        truth.data["images"].append({"id": len(truth.files) + 1, "file_name": file, "width": width, "height": height})
        truth.files.append(str(path))
        _add_objects(tree, path, classes, truth, note)
    return truth


def parse_xml(content: bytes, path: Path) -> Element:
    """The root element of an XML file.

    Raises:
        UserError: where it is none, or declares a document type, which is where entities that multiply come from.
    """
    builder, depth = TreeBuilder(), 0
    parser = expat.ParserCreate()
    parser.buffer_text = True

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > DEEPEST:
            raise UserError(
                f"{path}: line {parser.CurrentLineNumber}: elements nest deeper than {DEEPEST}; mend the file"
            )
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def doctype(*_: object) -> None:
        raise UserError(f"{path}: declares a document type, which VOC's files never do and could harm; remove it")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = builder.data, doctype
    try:
        parser.Parse(content, True)
        return builder.close()
    except (expat.ExpatError, LookupError, ValueError) as error:  # the last two for unknown encodings
        raise UserError(f"{path}: not XML ({error})") from None


def _listed(root: Path, split: str, note: Note) -> list[str]:
    """The names that a list has, in order."""
    path = root / LISTS / f"{split}.txt"
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in path.parent.glob("*.txt"))) or "none"
        raise UserError(f"{path}: no such list; the lists there: {there}")
    lines = [line.strip() for line in read_text(path).splitlines()]
    if not any(lines):
        raise UserError(f"{path}: lists no image; name another list")
    names: dict[str, None] = {}
    for number, line in enumerate(lines, 1):
        name, _, flag = line.rpartition(" ")
        if not name or flag not in FLAGS or (root / "Annotations" / f"{line}.xml").is_file():
            name = line
        name = name.strip()
        if not name:
            continue
        try:
            if leads_out(name) or "\0" in name:
                raise UserError(f"{path}: line {number}: {name!r} leads out of Annotations; mend the list")
            if name in names:
                raise UserError(f"{path}: line {number}: {name} stands more than once; mend the list")
            if not (root / "Annotations" / f"{name}.xml").is_file():
                raise UserError(f"{path}: line {number}: there is no Annotations/{name}.xml; write it or mend the list")
        except UserError as error:
            note("malformed list", str(path), error)
            continue
        names[name] = None
    return list(names)


def _parse(root: Path, wanted: set[str], note: Note) -> tuple[dict[str, Element], list[str]]:
    """The wanted files' elements by name, and the classes; all files are looked at unless `classes.txt` has those."""
    given = read_names(root / "classes.txt") if (root / "classes.txt").is_file() else None
    folder, trees, seen = root / "Annotations", {}, set()
    names = wanted if given else {p.relative_to(folder).with_suffix("").as_posix() for p in folder.rglob("*.xml")}
    for name in sorted(names | wanted):
        path = folder / f"{name}.xml"
        try:
            tree = parse_xml(_bytes(path), path)
            if tree.tag != "annotation":
                raise UserError(f"{path}: begins with <{tree.tag}>, not <annotation>; it is no file of VOC's")
        except UserError as error:
            if name in wanted:  # the others may be what they like
                note("malformed annotation", str(path), error)
            continue
        seen |= {(thing.findtext("name") or "").strip() for thing in tree.iterfind("object")}
        if name in wanted:
            trees[name] = tree
    return trees, given or sorted(seen - {""})


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def _image_of(tree: Element, name: str, path: Path, images: dict[str, list[str]], absent: str) -> str:
    """The image file of an annotation: the one of its name, or else the one that it names."""
    named = (tree.findtext("filename") or "").strip()
    if leads_out(named) or "\0" in named:
        raise UserError(f"{path}: <filename> {named!r} leads out of JPEGImages; mend it")
    own, stem = images.get(name, []), named.rpartition(".")[0] or named
    there = named in images.get(stem, [])
    if there and own and named not in own:
        raise UserError(f"{path}: <filename> is {named}, but JPEGImages/{own[0]} is there as well; mend <filename>")
    if there:
        return named
    if len(own) > 1:
        raise UserError(f"{path}: {own[0]} and {own[1]} are both there; say by <filename> which one it is")
    if not own and absent == "error":
        raise UserError(f"{path}: there is no JPEGImages/{named or name + '.jpg'}; add it, or pass --on-bad-image skip")
    return own[0] if own else named or f"{name}.jpg"


def _size(tree: Element, path: Path, image: Path, absent: str) -> tuple[int, int]:
    """Height and width as <size> says, or else the image file."""
    texts = [(tree.findtext(f"size/{side}") or "0").strip() for side in ("height", "width")]
    sides = [number(text) for text in texts]
    for text, side in zip(texts, sides, strict=True):
        if side is None or side < 0 or side != int(side):
            raise UserError(f"{path}: <size> holds {text[:40]!r}, not a whole number of pixels; mend it")
    height, width = (int(side or 0) for side in sides)
    if height and width:
        return height, width
    try:
        return image_size(image, apply_exif=True)
    except UserError as error:
        if absent == "error":
            raise UserError(f"{path}: has no <size>, and {error}") from None
        return unknown_size()


def unknown_size() -> tuple[int, int]:
    """Of an image that cannot be read and whose annotations do not tell: any, as no detection will be compared."""
    return 640, 640


def _add_objects(tree: Element, path: Path, classes: list[str], truth: Truth, note: Note) -> None:
    for place, thing in enumerate(tree.iterfind("object"), 1):
        try:
            record = _object(thing, f"{path}: object {place}", classes)
        except UserError as error:
            note("malformed object", str(path), error)
            continue
        truth.ordinals.append(place)
        own = {"id": len(truth.ordinals), "image_id": len(truth.files)}
        truth.data["annotations"].append({**own, **record})


def _object(thing: Element, where: str, classes: list[str]) -> Record:
    name = (thing.findtext("name") or "").strip()
    if not name or not is_text(name):
        raise UserError(f"{where}: has no <name>; mend the file")
    if name not in classes:
        raise UserError(f"{where}: its class {name} is not in classes.txt ({', '.join(classes[:5])}, ...); mend one")
    difficult = (thing.findtext("difficult") or "0").strip()
    if difficult not in ("0", "1"):
        raise UserError(f"{where}: <difficult> is {difficult[:40]!r}, not 0 or 1; mend it")
    corners = []
    for corner in CORNERS:
        text = (thing.findtext(f"bndbox/{corner}") or "").strip()
        value = number(text)
        if value is None:
            raise UserError(f"{where}: its <{corner}> is {text[:40]!r}, not a number of pixels; mend it")
        corners.append(value)
    left, top, right, bottom = corners  # decimals: 0.1 + 1 - 1 is 0.1
    box = [float(left - 1), float(top - 1), float(right - left + 1), float(bottom - top + 1)]
    kept = {tag: said.strip() for tag in KEPT if (said := thing.findtext(tag))}
    return {
        "category_id": classes.index(name) + 1,
        "bbox": box,
        "area": box[2] * box[3],
        "iscrowd": int(difficult),
        **kept,
    }


def number(text: str) -> Decimal | None:
    """A finite number of pixels that a picture might have, or None."""
    try:
        value = Decimal(text)
    except InvalidOperation:
        return None
    return value if value.is_finite() and abs(value) < FURTHEST else None

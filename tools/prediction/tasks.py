"""What prediction does that differs from task to task: the net's words in, files out."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from torch import Tensor

from backbones.common.files import write_json, write_text
from backbones.errors import UserError
from tools.prediction.inputs import Picture
from tools.prediction.outputs import Drawn, write_bytes

DRAWN_SCORE = 0.5  # detections below are not drawn where no --score says another


@dataclass
class Wishes:
    """What a person asks of predictions; see the options of `tools/predict.py`."""

    score: float | None = None
    classes: Sequence[str] = ()
    tile: int | Literal["auto"] | None = None
    overlap: float | None = None
    top: int = 5
    batch_size: int = 8
    device: str | None = None
    precision: str | None = None


@dataclass
class Named:
    """A picture with its number among all, and the name, unique and without suffix, that its files get."""

    picture: Picture
    number: int
    name: str


class Task(Protocol):
    """Predictions of one task.

    Attributes:
        net: what `load` gave.
        read: turns a path or an array into a picture's content; runs in data workers.
    """

    net: Any
    read: Callable[[Any], Any]

    def pixels(self, content: Any) -> int:
        """Pixels that wait with a picture."""

    def group(self, content: Any) -> Any:
        """Pictures of a group go through the net together."""

    def predict(self, contents: Sequence[Any]) -> list[Any]:
        """Results of a group."""

    def add(self, named: Named, result: Any, drawn: Drawn) -> None:
        """Keep a result and have it drawn."""

    def finish(self, folder: Path) -> list[str]:
        """Write what was kept; the files' names."""


@dataclass
class Detect:
    """Boxes: COCO results, and the images and categories that they speak of."""

    net: Any
    folder: Path
    wishes: Wishes
    rows: list[dict[str, Any]] = field(default_factory=list)
    images: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        from detection.tiles import Tiles

        wishes, heads = self.wishes, self.net.model.roi_heads
        self.read: Callable[[Any], Any] = partial(_picture_only, self.net.read)
        names = self.net.categories.names
        chosen = chosen_classes(wishes.classes, names)
        self.ids = {self.net.categories.ids[place] for place in chosen}
        heads.score_thresh = heads.score_thresh if wishes.score is None else wishes.score
        side = self.net.model.transform.min_size[-1] if wishes.tile == "auto" else wishes.tile
        self.tiles = Tiles(side, 0.25 if wishes.overlap is None else wishes.overlap) if side else None

    def pixels(self, content: Tensor) -> int:
        return content[0].numel()

    def group(self, content: Tensor) -> Any:
        """Images of one orientation are padded less; one that is cut into tiles goes alone."""
        if self.tiles and self.tiles.needed(content):
            return None
        return content.shape[1] > content.shape[2]

    def predict(self, contents: Sequence[Tensor]) -> list[Any]:
        from detection.tiles import detect_in_tiles

        if self.tiles and self.tiles.needed(contents[0]):
            return [detect_in_tiles(self.net, each, self.tiles, batch_size=self.wishes.batch_size) for each in contents]
        return self.net.predict(contents)

    def add(self, named: Named, result: Any, drawn: Drawn) -> None:
        from detection.draw import draw_detections

        content, low = named.picture.content, self.wishes.score or 0.0
        keep = [i for i, label in enumerate(result.labels.tolist()) if label in self.ids and result.scores[i] >= low]
        boxes, scores, labels = (getattr(result, name)[keep].numpy() for name in ("boxes", "scores", "labels"))
        names = [result.names[place] for place in keep]
        rows = []
        for box, score, label in zip(boxes.tolist(), scores.tolist(), labels.tolist(), strict=True):
            left, top, right, bottom = box
            bbox = [round(value, 3) for value in (left, top, right - left, bottom - top)]
            rows.append({"image_id": named.number, "category_id": label, "bbox": bbox, "score": round(score, 5)})
        self.rows += rows  # all at once: an interrupt leaves no image with some of its boxes
        self.images.append(_image_row(named, content))
        seen = scores >= (DRAWN_SCORE if self.wishes.score is None else low)
        colours = [self.net.categories.ids.index(label) + 1 for label in labels[seen].tolist()]
        shown = [name for name, there in zip(names, seen, strict=True) if there]
        image = _as_bytes(content)
        drawn.add(
            named.name,
            named.picture,
            lambda: draw_detections(image, boxes[seen], colours, shown, scores[seen].tolist()),
        )

    def finish(self, folder: Path) -> list[str]:
        known = self.net.categories
        categories = [{"id": key, "name": name} for key, name in zip(known.ids, known.names, strict=True)]
        images = sorted(self.images, key=lambda row: row["id"])
        rows = sorted(self.rows, key=lambda row: (row["image_id"], -row["score"]))
        write_json(folder / "predictions.json", rows, indent=None)
        write_json(folder / "images.json", {"images": images, "categories": categories}, indent=None)
        return [f"predictions.json ({len(rows)} boxes, COCO's results format)", "images.json (what its ids mean)"]


@dataclass
class Segment:
    """Label maps: palette PNGs of class numbers."""

    net: Any
    folder: Path
    wishes: Wishes

    def __post_init__(self) -> None:
        self.read: Callable[[Any], Any] = partial(_picture_only, self.net.read)
        classes, words = self.net.classes, self.wishes.classes
        self.chosen = chosen_classes(words, classes.names) if words else classes.coloured

    def pixels(self, content: Tensor) -> int:
        return content[0].numel()

    def group(self, content: Tensor) -> Any:
        return tuple(content.shape)

    def predict(self, contents: Sequence[Tensor]) -> list[Any]:
        return self.net.predict(contents)

    def add(self, named: Named, result: Any, drawn: Drawn) -> None:
        from segmentation.draw import draw_labels

        classes, labels, image = self.net.classes, result.labels.numpy(), _as_bytes(named.picture.content)
        frame = named.picture.frame
        name = named.name if frame is None else f"{named.name}/{frame:06d}"
        write_bytes(self.folder / "labels" / f"{name}.png", palette_png(labels, classes.colours))
        # A video's pictures are of one size, whatever they show.
        present = set(np.unique(labels).tolist()) if frame is None else self.chosen
        legend = [number for number in self.chosen if number in present]
        drawn.add(
            named.name, named.picture, partial(draw_labels, image, labels, classes, chosen=self.chosen, legend=legend)
        )

    def finish(self, folder: Path) -> list[str]:
        classes = self.net.classes
        lines = [
            f"{name} {' '.join(map(str, rgb))}\n" for name, rgb in zip(classes.names, classes.colours, strict=True)
        ]
        write_text(folder / "classes.txt", "".join(lines))
        return ["labels/ (PNGs of class numbers)", "classes.txt (what the numbers mean)"]


@dataclass
class Classify:
    """Rankings: a line an image."""

    net: Any
    folder: Path
    wishes: Wishes
    draws: bool = True
    rows: list[tuple[int, list[Any]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.wishes.tile:
            raise UserError("--tile: classifiers see an image as a whole; leave it out")
        self.chosen = chosen_classes(self.wishes.classes, self.net.classes)
        self.net.among, self.net.top = self.chosen, min(self.wishes.top, len(self.chosen))
        channels = self.net.model.backbone.in_channels
        self.read: Callable[[Any], Any] = partial(_views_and_picture, self.net.read, channels, self.draws)

    def pixels(self, content: Any) -> int:
        return sum(view[0].numel() for view in content[0])

    def group(self, content: Any) -> Any:
        return tuple((tuple(view.shape), view.dtype) for view in content[0])

    def predict(self, contents: Sequence[Any]) -> list[Any]:
        return self.net.predict([views for views, _ in contents])

    def add(self, named: Named, result: Any, drawn: Drawn) -> None:
        from classification.draw import draw_ranking

        names, values = result.names, result.probabilities.tolist()
        frame = named.picture.frame
        # Names of other encodings than UTF-8 have bytes that no text file holds.
        path = str(named.picture.source.path).encode("utf-8", "backslashreplace").decode("utf-8")
        file = path if frame is None else f"{path}#{frame}"
        self.rows.append((named.number, [file, *(x for pair in zip(names, values, strict=True) for x in pair)]))
        if named.picture.content[1] is not None:
            drawn.add(named.name, named.picture, partial(draw_ranking, named.picture.content[1], names, values))

    def finish(self, folder: Path) -> list[str]:
        text = io.StringIO()
        writer = csv.writer(text)
        places = range(1, self.net.top + 1)
        writer.writerow(["image", *(word for n in places for word in (f"class_{n}", f"probability_{n}"))])
        for _, row in sorted(self.rows, key=lambda pair: pair[0]):
            writer.writerow([f"{value:.5f}" if isinstance(value, float) else value for value in row])
        write_text(folder / "predictions.csv", text.getvalue())
        return ["predictions.csv"]


def open_task(run: str, wishes: Wishes, folder: Path, *, draws: bool) -> Task:
    """The trained net of a run, ready for its task.

    Raises:
        UserError: where there is none, or a wish does not fit it.
    """
    from backbones.trained import find

    task = find(run).task
    common: dict[str, Any] = {"device": wishes.device, "precision": wishes.precision}
    if task == "detection":
        import detection

        return Detect(detection.load(run, **common), folder, wishes)
    if wishes.score is not None:
        raise UserError(f"--score {wishes.score}: {run} is a net of {task}; only detections have such a limit")
    if task == "segmentation":
        import segmentation

        return Segment(segmentation.load(run, **common, **_windows(run, wishes)), folder, wishes)
    import classification

    return Classify(classification.load(run, **common), folder, wishes, draws)


def chosen_classes(words: Sequence[str], names: Sequence[str]) -> list[int]:
    """Places of the classes that are named; all where none are.

    Raises:
        UserError: for a name that the net does not know, with those that look like it.
    """
    for word in words:
        if word not in names:
            near = get_close_matches(word, names, 5, 0.5) or list(names[:10])
            raise UserError(f"--classes {word}: the net knows no such class; there are {', '.join(near)}")
    return [place for place, name in enumerate(names) if not words or name in words]


def palette_png(labels: np.ndarray, colours: Sequence[tuple[int, int, int]]) -> bytes:
    """A label map `[H, W]` as a PNG whose pixels are class numbers, in the classes' colours."""
    from PIL import Image

    picture, content = Image.fromarray(labels), io.BytesIO()
    picture.putpalette([value for colour in colours for value in colour])
    picture.save(content, "PNG", compress_level=1)
    return content.getvalue()


def _windows(run: str, wishes: Wishes) -> dict[str, Any]:
    """How `--tile` and `--overlap` say that images are looked at."""
    from backbones.trained import find

    side = find(run).config.get("crop_size", 512) if wishes.tile == "auto" else wishes.tile
    found: dict[str, Any] = {} if side is None else {"tile": side}
    return found if wishes.overlap is None else {**found, "overlap": wishes.overlap}


def _picture_only(read: Callable[[Any], Any], image: Any) -> Any:
    """An image as its net takes it; detectors and segmentation nets take no files of arrays."""
    if isinstance(image, (str, Path)) and Path(image).suffix.lower() == ".npy":
        raise UserError(f"{image}: is an array, which classifiers alone take; save it as a PNG")
    return read(image)


def _views_and_picture(read: Callable[[Any], Any], in_channels: int, draws: bool, image: Any) -> tuple[Any, Any]:
    """A classifier's views, and the image `[H, W, C]` to draw: None where it is no picture."""
    if not draws:
        return read(image), None
    from classification.draw import SIDE
    from classification.trained import read_pixels
    from classification.transforms import resized

    pixels = image if isinstance(image, np.ndarray) else read_pixels(image, in_channels=in_channels)
    views = read(pixels)
    if pixels.dtype != np.uint8 or pixels.shape[2] not in (1, 3):
        return views, None
    return views, np.ascontiguousarray(resized(pixels, SIDE) if min(pixels.shape[:2]) > SIDE else pixels)


def _as_bytes(content: Tensor) -> np.ndarray:
    return np.ascontiguousarray(content.permute(1, 2, 0).numpy())


def _image_row(named: Named, content: Tensor) -> dict[str, Any]:
    row: dict[str, Any] = {"id": named.number, "file_name": str(named.picture.source.path)}
    row |= {"width": content.shape[2], "height": content.shape[1]}
    return row if named.picture.frame is None else {**row, "frame": named.picture.frame}

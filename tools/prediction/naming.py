"""Assigns an id and an output file name to each predicted image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic

from tools.prediction.inputs import Content, InputFile, LoadedImage


@dataclass
class NumberedImage(Generic[Content]):
    """An image that was read, with its id and the name of its results.

    Attributes:
        number: id of the image in the results.
        name: path of the image's results, relative to the output folder and without suffix.
        content: result of the reader.
        frame: index of the frame in the video; None for an image.
    """

    source: InputFile
    number: int
    name: str
    content: Content
    frame: int | None


def number_images(
    images: Iterable[LoadedImage[Content]], inputs: Sequence[InputFile], *, on_problem: Callable[[str], None]
) -> Iterator[NumberedImage[Content]]:
    """Yield the images that could be read, with an id and a name each.

    An image's id is the number in its file name if all file names are different numbers, as in COCO (000000000139.jpg).
    Otherwise the ids count from 1, and images that could not be read count as well.

    Args:
        inputs: all inputs.
        on_problem: called with the problem of each image that could not be read.
    """
    names = unique_names(inputs)
    stems = [each.path.stem for each in inputs]
    are_numbers = all(stem.isascii() and stem.isdigit() for stem in stems) and not any(e.is_video for e in inputs)
    use_stems = are_numbers and len({int(stem) for stem in stems}) == len(stems)
    for count, image in enumerate(images, start=1):
        if image.content is None:
            on_problem(image.problem)
        else:
            number = int(stems[image.index]) if use_stems else count
            yield NumberedImage(image.source, number, names[image.index], image.content, image.frame)


def unique_names(inputs: Sequence[InputFile]) -> list[str]:
    """Return for each input a unique name for its results: its path without suffix, with a number if needed.

    The name of a video is also the folder of its frames' results, so the results of other inputs must not be in it.
    """
    folders = {parent.as_posix() for each in inputs for parent in Path(each.name).parents}
    taken: Counter[str] = Counter()
    names: list[str] = []
    for each in inputs:
        stem = Path(each.name).with_suffix("").as_posix()
        name = stem
        while taken[name] or (each.is_video and name in folders):
            taken[stem] += 1
            name = f"{stem}-{taken[stem]}"
        taken[name] += 1
        names.append(name)
    return names

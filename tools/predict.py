"""Predict with what was trained: images, folders, globs and videos in; drawn pictures and machine-readable results out.

    python tools/predict.py --run runs/det-20260101-120000 photos/ clip.mp4 "more/*.png"
    python tools/predict.py --weights model.safetensors photos/ --score 0.3 --classes dog,cat --output found
    python tools/predict.py --run RUN aerial.tif --tile 800       # overlapping tiles, merged detections

The task is the run's. An input that cannot be read is named, the others are predicted all the same, and the exit status
is 2. Ctrl-C and SIGTERM keep what was found until then; the exit status is 130.
"""

from __future__ import annotations

import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the root, not tools/, whose names could shadow others

from backbones.errors import UserError, require
from tools.cli.arguments import POSITIONAL
from tools.cli.ending import run
from tools.cli.parsing import parse
from tools.cli.plugins import PluginOptions

if TYPE_CHECKING:
    from tools.prediction.inputs import Input, Picture
    from tools.prediction.tasks import Named, Task

MOST_PIXELS = 1 << 24  # of pictures that wait for a full batch: memory stays bounded whatever their sizes are


@dataclass
class PredictOptions:
    """What predicts, and what becomes of it.

    Args:
        inputs: images, folders, globs and videos.
        run: folder of a finished training.
        weights: a weights file of one, instead.
        output: folder of the results; absent: a new one under runs/.
        score: detections below are left out; absent: the net's own limit (0.05), and pictures show those from 0.5.
        classes: names, between commas; others are not reported (in label maps: not coloured). Absent: all.
        top: classes of a ranking.
        tile: side in pixels of the overlapping tiles that larger images are cut into; auto is what the net was trained
            at; absent: images are taken whole, or as the run's evaluation did.
        overlap: share of a tile that the next one repeats; absent: 0.25, or the run's own.
        draw: whether to draw pictures.
        batch_size: images that go through the net together.
        workers: processes that read images; absent: one per core, four at most.
        threads: CPU threads of the net; absent: one per core.
        device: cpu, cuda, cuda:1, ...; absent: a GPU where there is one.
        precision: absent: the run's own.
    """

    inputs: list[str] = field(default_factory=list, metadata=POSITIONAL)
    run: str | None = None
    weights: str | None = None
    output: str | None = None
    score: float | None = None
    classes: str | None = None
    top: int = 5
    tile: int | Literal["auto"] | None = None
    overlap: float | None = None
    draw: bool = True
    batch_size: int = 8
    workers: int | None = None
    threads: int | None = None
    device: str | None = None
    precision: Literal["auto", "fp32", "bf16", "fp16"] | None = None

    def __post_init__(self) -> None:
        require((self.run is None) != (self.weights is None), "run", self.run, "name --run FOLDER or --weights FILE")
        require(self.score is None or 0 <= self.score <= 1, "score", self.score, "must be between 0 and 1")
        require(self.overlap is None or 0 <= self.overlap < 1, "overlap", self.overlap, "must be at least 0, below 1")
        require(self.tile in (None, "auto") or int(self.tile or 0) >= 16, "tile", self.tile, "must be 16 or more")
        require(self.threads is None or self.threads > 0, "threads", self.threads, "must be above 0")
        require(self.workers is None or self.workers >= 0, "workers", self.workers, "must be 0 or above")
        for name in ("top", "batch_size"):
            require(getattr(self, name) > 0, name, getattr(self, name), "must be above 0")


@dataclass
class Options:
    """The script's option groups."""

    predict: PredictOptions
    plugins: PluginOptions


def main(argv: Sequence[str] | None = None) -> None:
    """Load, read, predict, write, report."""
    groups = parse(Options, description=__doc__.splitlines()[0], argv=argv)
    options = groups.predict
    if not options.inputs:
        raise UserError("no input: name images, folders, globs or videos after the options")

    from backbones.common.files import write_json
    from tools.engine.run_folder import choose_results
    from tools.prediction.inputs import find_inputs

    groups.plugins.load()
    inputs, problems = find_inputs(options.inputs)
    if not inputs:
        raise UserError("; ".join(problems))
    folder = choose_results(options.output, prefix="predict")
    task = start(options, folder)
    for problem in problems:
        _complain(problem)
    started = time.perf_counter()
    done, more, stopped = predict(task, options, inputs, folder)
    seconds = time.perf_counter() - started
    problems += more
    files = task.finish(folder) if done else []
    summary = {
        "pictures": done,
        "interrupted": stopped,
        "seconds": round(seconds, 2),
        "pictures_per_second": round(done / seconds, 3),
    }
    if folder.is_dir():
        write_json(folder / "summary.json", {**summary, "weights": str(task.net.trained.path), "failed": problems})
    print(f"{done} pictures in {seconds:.1f} s: {done / seconds:.1f} images/s; {len(problems)} inputs failed")
    if files:
        print(f"in {folder}: {', '.join([*files, *(['pictures/'] if options.draw else [])])}")
    if stopped:
        raise KeyboardInterrupt(f"interrupted: {done} pictures were predicted; the others are left out")
    if problems:
        raise UserError(f"{len(problems)} of the inputs failed, {done} pictures were predicted; see above")


def start(options: PredictOptions, folder: Path) -> Task:
    """The net, with the machine set up as training sets it up."""
    import torch

    from backbones.common.machine import cores
    from tools.prediction.tasks import Wishes, open_task

    torch.set_num_threads(options.threads or cores())
    torch.set_flush_denormal(True)
    wishes = Wishes(
        score=options.score,
        classes=[name.strip() for name in options.classes.split(",")] if options.classes else (),
        **{name: getattr(options, name) for name in ("tile", "overlap", "top", "batch_size", "device", "precision")},
    )
    return open_task(options.run or options.weights or "", wishes, folder, draws=options.draw)


def predict(task: Task, options: PredictOptions, inputs: list[Input], folder: Path) -> tuple[int, list[str], bool]:
    """Predict all pictures, or those before an interrupt: how many, what is wrong with others, whether one came."""
    from tqdm import tqdm

    from backbones.common.machine import cores
    from tools.engine.run_folder import create_results
    from tools.prediction.inputs import count, stream
    from tools.prediction.outputs import Drawn
    from tools.processes.stopping import as_keyboard_interrupt

    workers = min(4, cores()) if options.workers is None else options.workers
    problems: list[str] = []
    done, stopped = 0, False
    pictures = numbered(stream(inputs, task.read, workers=workers), inputs, problems)
    with (
        Drawn(folder / "pictures", enabled=options.draw) as drawn,
        tqdm(total=count(inputs), unit="img", dynamic_ncols=True) as bar,
        as_keyboard_interrupt(signal.SIGTERM),
    ):
        try:
            for batch in batches(pictures, task, options.batch_size):
                if not done:
                    create_results(folder)
                for named, result in zip(batch, task.predict([each.picture.content for each in batch]), strict=True):
                    task.add(named, result, drawn)
                    done += 1
                    bar.update()
        except KeyboardInterrupt:
            stopped = True
    return done, problems, stopped


def numbered(pictures: Iterator[Picture], inputs: list[Input], problems: list[str]) -> Iterator[Named]:
    """The pictures with their ids and names; the others go to `problems`.

    Ids are the numbers in the files' names where all have different ones, as COCO's do (000000000139.jpg); otherwise
    they count from 1.
    """
    from tools.prediction.tasks import Named

    names = unique_names(inputs)
    stems = [each.path.stem for each in inputs]
    plain = all(stem.isascii() and stem.isdigit() for stem in stems) and not any(each.is_video for each in inputs)
    own = plain and len({int(stem) for stem in stems}) == len(stems)
    for number, picture in enumerate(pictures, start=1):
        if picture.problem:
            problems.append(picture.problem)
            _complain(picture.problem)
        else:
            yield Named(picture, int(stems[picture.place]) if own else number, names[picture.place])


def unique_names(inputs: list[Input]) -> list[str]:
    """A name for each input's files: its own without suffix, with a number where another has the same.

    A video's is that of a folder too, for its frames, where no other input's may lie.
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


def batches(pictures: Iterator[Named], task: Task, size: int) -> Iterator[list[Named]]:
    """Pictures of one group together, `size` or fewer, without keeping many pixels waiting."""
    waiting: dict[Any, list[Named]] = {}
    for named in pictures:
        group = task.group(named.picture.content)
        waiting.setdefault(group, []).append(named)
        if group is None or len(waiting[group]) == size:
            yield waiting.pop(group)
        while sum(task.pixels(each.picture.content) for some in waiting.values() for each in some) > MOST_PIXELS:
            yield waiting.pop(max(waiting, key=lambda key: len(waiting[key])))
    yield from waiting.values()


def _complain(problem: str) -> None:
    from tqdm import tqdm

    tqdm.write(f"error: {problem}", file=sys.stderr)


if __name__ == "__main__":
    run(main)

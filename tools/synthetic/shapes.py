"""TODO-DOC tools/synthetic/shapes.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from backbones.common.files import create_once
from backbones.errors import UserError

VERSION = 2  # raise it whenever the bytes change: the cache folder carries it


SPLITS = ("train", "val")


FIRST_IMAGE_ID = {"train": 1, "val": 1_000_001}


CATEGORIES = (  # in the order of shapes_draw.OUTLINES; the ids have gaps, as COCO's have
    {"id": 1, "name": "circle", "supercategory": "round"},
    {"id": 3, "name": "square", "supercategory": "angular"},
    {"id": 4, "name": "triangle", "supercategory": "angular"},
    {"id": 7, "name": "star", "supercategory": "angular"},
    {"id": 9, "name": "ring", "supercategory": "round"},
    {"id": 12, "name": "cross", "supercategory": "angular"},
)


IMAGES_PER_WORKER = 200  # fewer are not worth a process


MOST_WORKERS = 16


LEAST_SIZE, MOST_SIZE = 32, 1024


DESCRIPTION_FILE = "shapes.json"


def cache_root() -> Path:
    """$RESNET_TRANSFER_CACHE, else $XDG_CACHE_HOME/resnet-transfer, else ~/.cache/resnet-transfer."""
    own, common = os.environ.get("RESNET_TRANSFER_CACHE"), os.environ.get("XDG_CACHE_HOME")
    if own:
        return Path(own).expanduser()
    return (Path(common) if common else Path.home() / ".cache") / "resnet-transfer"


def prepare(root: Path | None = None, *, train: int = 3000, val: int = 200, size: int = 128, seed: int = 0) -> Path:
    """The dataset's folder below `root` (default: the cache), generated first where it is not there yet.

    Several processes may call this at once: one generates, the others wait for it. A killed generation leaves
    nothing that a later call would take for the dataset.

    Raises:
        UserError: for impossible parameters, a folder that cannot be written, or a damaged earlier dataset.
    """
    name = f"shapes-v{VERSION}-train{train}-val{val}-size{size}-seed{seed}"
    folder = (cache_root() if root is None else Path(root)) / name
    return generate(folder, train=train, val=val, size=size, seed=seed)


def generate(folder: Path, *, train: int, val: int, size: int, seed: int) -> Path:
    """As `prepare`, into exactly this folder."""
    recipe = {"version": VERSION, "train": train, "val": val, "size": size, "seed": seed}
    _check(train=train, val=val, size=size, seed=seed)
    folder = folder.absolute()
    if _is_complete(folder, recipe):
        return folder
    try:
        create_once(folder, is_complete=lambda: _is_complete(folder, recipe), write=lambda at: _write(at, recipe))
    except OSError as error:
        raise UserError(
            f"cannot write the shapes dataset to {folder}: {error.strerror or error}; name a writable folder "
            "with --output or RESNET_TRANSFER_CACHE"
        ) from None
    return folder


def _check(*, train: int, val: int, size: int, seed: int) -> None:
    for name, value, least, most in (
        ("train", train, 1, 1_000_000),
        ("val", val, 1, 1_000_000),
        ("size", size, LEAST_SIZE, MOST_SIZE),
        ("seed", seed, 0, 2**63),
    ):
        if not least <= value <= most:
            raise UserError(f"shapes: {name} is {value}; choose {least} to {most}")


def _is_complete(folder: Path, recipe: dict[str, int]) -> bool:
    """Whether the folder holds this very dataset; False where there is none (or an empty folder) yet.

    Raises:
        UserError: if something else is there: nothing of the user's is ever overwritten.
    """
    if not folder.exists():
        return False
    try:
        if not any(folder.iterdir()):
            return False
        found = json.loads((folder / DESCRIPTION_FILE).read_text())
        counts = {split: len(os.listdir(folder / split)) for split in SPLITS}
        annotated = all((folder / "annotations" / f"instances_{split}.json").is_file() for split in SPLITS)
    except FileNotFoundError as error:
        raise UserError(_in_the_way(folder, f"lacks {Path(error.filename).name}")) from None
    except (OSError, ValueError) as error:
        raise UserError(_in_the_way(folder, f"cannot be read ({error})")) from None
    if found != recipe:
        raise UserError(_in_the_way(folder, "holds something else than the shapes asked for"))
    for split, count in counts.items():
        if count != recipe[split]:
            raise UserError(_in_the_way(folder, f"has {count} of {recipe[split]} images in {split}"))
    if not annotated:
        raise UserError(_in_the_way(folder, "lacks annotations"))
    return True


def _in_the_way(folder: Path, trouble: str) -> str:
    return f"{folder}: {trouble}; delete it to have the shapes generated there, or name another folder"


def _write(folder: Path, recipe: dict[str, int]) -> None:
    for name in (*SPLITS, "annotations"):
        (folder / name).mkdir(parents=True)
    images = [
        [number, index, str(folder / split / _file_name(split, index))]
        for number, split in enumerate(SPLITS)
        for index in range(recipe[split])
    ]
    answers = _with_progress(_drawn(images, recipe), len(images))
    for split in SPLITS:
        truth = _truth(split, recipe, [next(answers) for _ in range(recipe[split])])
        text = json.dumps(truth, separators=(",", ":"))
        (folder / "annotations" / f"instances_{split}.json").write_text(text)
    next(answers, None)  # closes the progress bar and the workers
    (folder / DESCRIPTION_FILE).write_text(json.dumps(recipe))


def _file_name(split: str, index: int) -> str:
    return f"{FIRST_IMAGE_ID[split] + index:012d}.jpg"


def _truth(split: str, recipe: dict[str, int], drawn: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """COCO's instances JSON of one split."""
    size, first = recipe["size"], FIRST_IMAGE_ID[split]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index, things in enumerate(drawn):
        images.append({"id": first + index, "file_name": _file_name(split, index), "width": size, "height": size})
        for thing in things:
            category = CATEGORIES[thing.pop("kind")]["id"]
            ids = {"id": len(annotations) + 1, "image_id": first + index, "category_id": category}
            annotations.append({**ids, **thing})
    info = {
        "description": "Shapes, an embedded detection dataset",
        "version": str(VERSION),
        "seed": recipe["seed"],
    }
    return {"info": info, "images": images, "annotations": annotations, "categories": list(CATEGORIES)}


def _with_progress(answers: Iterator[Any], total: int) -> Iterator[Any]:
    from tqdm import tqdm

    interval = 0.1 if sys.stderr.isatty() else 10  # a log file wants few lines
    return iter(tqdm(answers, total=total, desc="Drawing shapes", unit="image", mininterval=interval))


def _drawn(images: list[list[Any]], recipe: dict[str, int]) -> Iterator[list[dict[str, Any]]]:
    """Write all images, on several cores where there are some; yields their annotations in order."""
    from tools.synthetic.worker import write_images

    workers = min(_cores(), MOST_WORKERS, len(images) // IMAGES_PER_WORKER)
    jobs = [{"images": images[start::workers], **recipe} for start in range(workers)]
    if workers > 1:
        yield from _from_workers(jobs, len(images))
    else:
        yield from write_images({"images": images, **recipe})


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _from_workers(jobs: list[dict[str, Any]], total: int) -> Iterator[list[dict[str, Any]]]:
    """Image i is worker i % n's: reading them in turn keeps the order, and a full pipe holds a fast one."""
    with ExitStack() as stack:
        workers = [stack.enter_context(_worker(job)) for job in jobs]
        for worker in workers:
            stack.callback(worker.kill)  # before it is waited for; no effect on one that is done
        for index in range(total):
            line = _stream(workers[index % len(workers)].stdout).readline()
            if not line:
                raise OSError(_last_words(workers[index % len(workers)]))
            yield json.loads(line)
        for worker in workers:
            worker.wait()


def _worker(job: dict[str, Any]) -> subprocess.Popen[str]:
    script = Path(__file__).with_name("worker.py")
    pipe = subprocess.PIPE
    worker = subprocess.Popen([sys.executable, script], stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    with _stream(worker.stdin) as stdin:
        json.dump(job, stdin)
    return worker


def _stream(stream: IO[str] | None) -> IO[str]:
    if stream is None:
        raise RuntimeError("a worker was started without pipes")
    return stream


def _last_words(worker: subprocess.Popen[str]) -> str:
    words = _stream(worker.stderr).read().strip().splitlines()
    return words[-1] if words else f"a worker ended early (status {worker.wait()})"

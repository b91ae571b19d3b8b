"""Draws the images of the shapes data set in several processes.

The processes are started as commands, not forked. A fork is unsafe beside the threads of torch, and
`multiprocessing` needs a guard in the caller's script.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from backbones.common.machine import cores
from tools.synthetic.records import DrawingJob, DrawnObject, ImageJob

IMAGES_PER_WORKER = 200  # starting a process costs more time than drawing fewer images
MOST_WORKERS = 16


def draw_images(images: Sequence[ImageJob], *, size: int, seed: int) -> Iterator[list[DrawnObject]]:
    """Draw and write all images; yield the objects of each image in order. Many images are divided among processes.

    Raises:
        OSError: if an image cannot be written.
    """
    workers = min(cores(), MOST_WORKERS, len(images) // IMAGES_PER_WORKER)
    if workers > 1:
        parts = [images[start::workers] for start in range(workers)]
        jobs: list[DrawingJob] = [{"images": part, "size": size, "seed": seed} for part in parts]
        yield from collect(jobs, len(images))
    else:
        from tools.synthetic.worker import write_images  # imports OpenCV

        yield from write_images({"images": images, "size": size, "seed": seed})


def collect(jobs: Sequence[DrawingJob], count: int) -> Iterator[list[DrawnObject]]:
    """Start a process for each job; yield the objects of each of the `count` images in order.

    Worker i % n draws image i, so reading one line from each worker in turn keeps the order. A worker that is ahead
    waits because its pipe is full.

    Raises:
        OSError: if a worker ends early; the text is the last line of the worker's error output.
    """
    with ExitStack() as stack:
        workers = [stack.enter_context(start_worker(job)) for job in jobs]
        # Kill the workers before waiting for them, if this generator is closed early. A finished worker is unaffected.
        for worker in workers:
            stack.callback(worker.kill)
        for index in range(count):
            line = _stream(workers[index % len(workers)].stdout).readline()
            if not line:
                raise OSError(_last_line(workers[index % len(workers)]))
            yield json.loads(line)
        for worker in workers:
            worker.wait()


def start_worker(job: DrawingJob) -> subprocess.Popen[str]:
    """Start `worker.py` and send it a job. The process prints one line of JSON per image."""
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


def _last_line(worker: subprocess.Popen[str]) -> str:
    """Return the last line of a worker's error output, or its exit status if there is no output."""
    lines = _stream(worker.stderr).read().strip().splitlines()
    return lines[-1] if lines else f"a process that draws shapes ended early (status {worker.wait()})"

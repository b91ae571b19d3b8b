"""Predicts several batches at once on a CPU, each in a thread of its own.

If all cores compute one layer together, they wait for the slowest core, and the processes that read images slow some
cores down. Batches in different threads do not wait for each other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from typing import NamedTuple, TypeVar

MOST_BATCHES = 4  # that are predicted at once
MOST_PIXELS = 1 << 27  # of the images of these batches; a detector needs 15 bytes a pixel of large images
Image = TypeVar("Image")
Result = TypeVar("Result")


class Division(NamedTuple):
    """Division of the images that are predicted at once.

    Attributes:
        batches: number of batches that are predicted at once.
        size: largest number of images of a batch.
        threads: CPU threads of a batch.
    """

    batches: int
    size: int
    threads: int


def divide(batch_size: int, threads: int, *, images: int) -> Division:
    """Divide a batch and the CPU threads into equal parts, so that memory holds no more images than before.

    Args:
        batch_size: number of images to predict at once.
        images: number of all images.
    """
    at_once = min(batch_size, images)
    most = max(1, min(threads, at_once, MOST_BATCHES))
    # Leave no thread idle where another number of batches uses it: 6 threads are 3 batches of 2.
    batches = max(range(min(2, most), most + 1), key=lambda number: (threads // number * number, number))
    return Division(batches, max(1, at_once // batches), max(1, threads // batches))


def predict_in_order(
    batches: Iterable[list[Image]],
    predict: Callable[[list[Image]], Sequence[Result]],
    *,
    at_once: int,
    pixels: Callable[[Image], int],
) -> Iterator[tuple[list[Image], Sequence[Result]]]:
    """Yield each batch with its results, in order.

    Args:
        predict: returns the results of a batch; called in threads if `at_once` is above 1.
        at_once: number of batches that are predicted at the same time; fewer, if they have more than `MOST_PIXELS`.
        pixels: returns the number of pixels of an image.
    """
    if at_once == 1:
        yield from ((batch, predict(batch)) for batch in batches)
        return
    pool = ThreadPoolExecutor(at_once)
    running: deque[tuple[list[Image], Future[Sequence[Result]]]] = deque()

    def is_full(batch: list[Image]) -> bool:
        # One batch more than there are threads waits, so that a thread always finds the next one.
        return len(running) > at_once or sum(map(pixels, chain(batch, *(each for each, _ in running)))) > MOST_PIXELS

    try:
        for batch in batches:
            while running and is_full(batch):
                done, results = running.popleft()
                yield done, results.result()
            running.append((batch, pool.submit(predict, batch)))
        while running:
            done, results = running.popleft()
            yield done, results.result()
    finally:
        pool.shutdown(cancel_futures=True)

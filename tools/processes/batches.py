"""The order of the training images: which process loads which images at which step."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tools.processes.environment import rank, world_size

REPEAT = 2**32  # distance between the first numbers of the keys of an image that an epoch uses several times


class TrainBatches:
    """Batch sampler that gives `(epoch, index)` keys to a data loader. Seed and epoch alone determine the order.

    An optimizer step uses the same `batch_size` images for any number of processes and accumulated batches; each
    process loads its slices of these images. Images of the same group, such as images of similar shape, share a step if
    possible. The last step of an epoch is filled up with images from the beginning of the epoch, so that no image is
    dropped.

    Args:
        groups: group number of each image `[N]`.
        batch_size: images per optimizer step, over all processes and accumulated batches; a multiple of
            `world_size * accumulate`.
        seed: seed of the order; another seed gives another order.
        accumulate: batches per optimizer step and process.
        repeats: average number of times `[N]` that each image is used in an epoch; absent: once. An image with 2.3 is
            used twice in each epoch, and a third time in three of ten epochs. All epochs have equal length. The first
            number of an image's key differs between its uses in an epoch, so that each is augmented in another way.
    """

    def __init__(
        self,
        groups: np.ndarray,
        batch_size: int,
        *,
        seed: int,
        accumulate: int = 1,
        repeats: np.ndarray | None = None,
    ) -> None:
        self.groups, self.batch_size, self.seed, self.accumulate = groups, batch_size, seed, accumulate
        self.repeats = repeats
        self.length = len(groups) if repeats is None else round(float(repeats.sum()))
        self.epoch = self.first_step = 0

    @property
    def steps(self) -> int:
        """Number of optimizer steps in one epoch."""
        return -(-self.length // self.batch_size)

    def seek(self, epoch: int, step: int = 0) -> None:
        """Let the next iteration start at a step of an epoch. Images of earlier steps are not loaded."""
        self.epoch, self.first_step = epoch, step

    def __len__(self) -> int:
        return (self.steps - self.first_step) * self.accumulate

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        size = self.batch_size // (world_size() * self.accumulate)
        steps = self._steps_of_epoch()
        draws = self.epoch + REPEAT * (np.zeros_like(steps) if self.repeats is None else uses_before(steps))
        for draw, step in zip(draws[self.first_step :].tolist(), steps[self.first_step :].tolist(), strict=True):
            for batch in range(self.accumulate):
                # The processes' slices of one accumulated batch lie side by side.
                begin = (batch * world_size() + rank()) * size
                yield list(zip(draw[begin : begin + size], step[begin : begin + size], strict=True))

    def _steps_of_epoch(self) -> np.ndarray:
        """Return the image indices of all steps `[steps, batch_size]`. A step has images of one group if possible."""
        random = np.random.default_rng((self.seed, self.epoch))
        order = random.permutation(self._drawn(random))
        # Cut each group into whole steps, and collect what remains.
        whole, rest = [], []
        for group in np.unique(self.groups):
            members = order[self.groups[order] == group]
            cut = len(members) - len(members) % self.batch_size
            whole.append(members[:cut].reshape(-1, self.batch_size))
            rest.append(members[cut:])
        # Make steps of the leftovers of all groups; fill the last one up from the beginning of the epoch.
        leftover = np.concatenate(rest)
        missing = -len(leftover) % self.batch_size
        leftover = np.concatenate([leftover, np.resize(order, missing)]).reshape(-1, self.batch_size)
        # Shuffle the steps, so that groups alternate.
        return random.permutation(np.concatenate([*whole, leftover]))

    def _drawn(self, random: np.random.Generator) -> np.ndarray:
        """Return the image indices of an epoch, unshuffled. An image occurs as often as its entry in `repeats` says.

        The repeats of all images are laid end to end on a line. Marks at equal distances, from a random start, select
        the images (systematic sampling).
        """
        if self.repeats is None:
            return np.arange(len(self.groups))
        # Below 1, marks would always select the same neighbours together: shuffle images of equal repeats.
        images = np.arange(len(self.groups))
        if self.repeats.min() < 1:
            images = random.permutation(images)
            images = images[np.argsort(self.repeats[images], kind="stable")]
        ends = self.repeats[images].cumsum() * (self.length / self.repeats.sum())
        marks = np.arange(self.length) + random.random()
        return images[np.searchsorted(ends, marks, side="right").clip(max=len(ends) - 1)]


def uses_before(images: np.ndarray) -> np.ndarray:
    """Return for each entry of an array of image indices how many earlier entries are the same image."""
    flat = images.ravel()
    order = np.argsort(flat, kind="stable")
    starts = np.searchsorted(flat[order], flat[order], side="left")
    found = np.empty_like(flat)
    found[order] = np.arange(len(flat)) - starts
    return found.reshape(images.shape)

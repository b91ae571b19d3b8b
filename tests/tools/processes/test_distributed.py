"""Batches and shards for several processes, and collectives over real gloo processes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Group

from backbones.common import processes
from backbones.errors import UserError
from tools.engine.exchange import exchange
from tools.processes import distributed
from tools.processes.batches import REPEAT, TrainBatches


def as_process(monkeypatch, rank: int, world: int) -> None:
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", str(world))


def epoch(batches: TrainBatches, number: int, step: int = 0) -> list[list[int]]:
    batches.seek(number, step)
    keys = list(batches)
    assert all(key[0] % REPEAT == number for batch in keys for key in batch)
    return [[key[1] for key in batch] for batch in keys]


def test_order_is_a_function_of_seed_and_epoch():
    groups = np.zeros(20, int)
    first = epoch(TrainBatches(groups, 4, seed=1), 0)
    assert first == epoch(TrainBatches(groups, 4, seed=1), 0)
    assert first != epoch(TrainBatches(groups, 4, seed=2), 0)
    assert first != epoch(TrainBatches(groups, 4, seed=1), 1)
    assert sorted(sum(first, [])) == list(range(20))


def test_an_epoch_can_begin_in_its_middle():
    batches = TrainBatches(np.zeros(20, int), 4, seed=1, accumulate=2)
    whole = epoch(batches, 3)
    assert epoch(batches, 3, step=2) == whole[4:]
    assert len(batches) == 2 * (batches.steps - 2)
    batches.seek(3)  # its beginning
    assert len(batches) == len(whole)


def test_repeated_images_come_as_often_as_they_should_in_epochs_of_one_length():
    """Repeats 1, 1, 2.5, 1.5 sum up to 6: each epoch has 6 draws, the third image 2 or 3 of them, 50 in 20 epochs."""
    repeats = np.array([1, 1, 2.5, 1.5])
    batches = TrainBatches(np.zeros(4, int), 3, seed=0, repeats=repeats)
    assert batches.steps == 2
    counts = np.array([np.bincount(sum(epoch(batches, number), []), minlength=4) for number in range(200)])
    assert (counts.sum(axis=1) == 6).all()
    assert (counts >= np.floor(repeats)).all() and (counts <= np.ceil(repeats)).all()
    assert abs(counts.mean(axis=0) - repeats).max() < 0.1
    assert epoch(batches, 7) == epoch(TrainBatches(np.zeros(4, int), 3, seed=0, repeats=repeats), 7)


def test_the_last_image_is_drawn_where_rounding_leads_beyond_the_end(monkeypatch):
    class Highest(np.random.Generator):
        def random(self, *_: object, **__: object) -> float:
            return np.nextafter(1, 0)  # 1 + this is 2, the end of the repeats

    monkeypatch.setattr("numpy.random.default_rng", lambda seed: Highest(np.random.PCG64(seed)))
    assert sorted(sum(epoch(TrainBatches(np.zeros(2, int), 2, seed=0, repeats=np.ones(2)), 0), [])) == [0, 1]


def test_repeats_of_one_leave_no_image_out():
    plain, once = (TrainBatches(np.arange(30) % 2, 4, seed=3, repeats=r) for r in (None, np.ones(30)))
    assert len(plain) == len(once)
    seen = sum(epoch(once, 1), [])
    assert set(seen) == set(range(30)) and len(seen) == 32  # 8 steps of 4, filled up


@pytest.mark.parametrize(("images", "batch"), [(7, 4), (3, 8), (1, 6), (12, 4)])
def test_every_image_is_seen_and_the_last_step_filled_up(images: int, batch: int):
    steps = epoch(TrainBatches(np.arange(images) % 2, batch, seed=0), 0)
    assert all(len(step) == batch for step in steps)
    assert set(sum(steps, [])) == set(range(images))
    assert len(steps) == -(-images // batch)


def test_groups_come_together():
    groups = np.array([0] * 13 + [1] * 14)
    steps = epoch(TrainBatches(groups, 4, seed=0), 0)
    mixed = [step for step in steps if len({int(groups[i]) for i in step}) > 1]
    assert len(mixed) <= 1  # the leftovers of both


@pytest.mark.parametrize(("world", "accumulate"), [(1, 1), (2, 1), (3, 2), (1, 6)])
def test_a_step_sees_the_same_images_on_any_number_of_processes(monkeypatch, world: int, accumulate: int):
    groups = np.arange(30) % 2
    alone = epoch(TrainBatches(groups, 6, seed=5), 2)
    parts = []
    for rank in range(world):
        as_process(monkeypatch, rank, world)
        parts.append(epoch(TrainBatches(groups, 6, seed=5, accumulate=accumulate), 2))
    for step, images in enumerate(alone):
        shared = [part[step * accumulate + a] for a in range(accumulate) for part in parts]
        assert sum(shared, []) == images


@pytest.mark.parametrize(("length", "world"), [(10, 3), (2, 3), (0, 2), (5, 1), (17, 2)])
def test_shards_are_disjoint_and_complete_and_their_batches_those_of_one_process(monkeypatch, length: int, world: int):
    shards = []
    for rank in range(world):
        as_process(monkeypatch, rank, world)
        shards.append(distributed.shard(length, 4))
    alone = [list(range(begin, min(begin + 4, length))) for begin in range(0, length, 4)]
    assert sorted(sum(shards, [])) == alone
    counts = [len(shard) for shard in shards]
    assert max(counts) - min(counts) <= 1


def test_one_process_needs_nothing():
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    assert distributed.all_gather("a") == ["a"]
    assert distributed.broadcast(3) == 3
    assert distributed.on_main(lambda: 4) == 4
    assert distributed.mean(torch.tensor([2.0])).tolist() == [2.0]
    assert distributed.on_all(lambda: 5) == 5


def collectives() -> None:
    """Use each collective; this file is also the script that each process runs."""
    distributed.start()
    rank, world = distributed.rank(), distributed.world_size()
    assert distributed.all_gather({"rank": rank}) == [{"rank": other} for other in range(world)]
    assert distributed.broadcast(f"from {rank}") == "from 0"
    assert distributed.mean(torch.tensor([float(rank)])).item() == (world - 1) / 2
    assert distributed.on_main(distributed.rank) == 0

    def fail() -> None:
        raise UserError("the disk is full")

    try:
        distributed.on_main(fail)
    except UserError as error:
        assert str(error) == "the disk is full"
        print("refused", rank, error.is_reporter)
    try:
        distributed.on_all(lambda: distributed.on_all(fail if rank == 1 else lambda: None))
    except UserError as error:
        assert str(error) == "the disk is full"
    distributed.stop()


@pytest.mark.parametrize("world", [2, 3])
def test_collectives_over_processes(group: Group, tmp_path: Path, world: int):
    ended = group(__file__, cwds=[tmp_path] * world)
    assert [(status, out) for status, out, _ in ended] == [
        (0, f"refused {rank} {rank == 0}\n") for rank in range(world)
    ], ended


if __name__ == "__main__":
    collectives()


def test_the_only_item_of_all_processes_has_the_weight_that_it_has_on_one(monkeypatch: pytest.MonkeyPatch):
    """The mean over two processes halves the loss of the one that has the item, so its weight is 2; 0 of 0 is 0."""
    monkeypatch.setattr(processes, "mean", lambda values: values / 2)
    monkeypatch.setattr(distributed, "mean", lambda values: values / 2)
    assert [float(processes.relative_count(torch.tensor(count))) for count in (1, 0)] == [2, 0]
    losses = {"loss_a": torch.tensor(3.0), "loss_b": torch.tensor(4.0), "loss_c": torch.tensor(5.0)}
    counts = {"loss_a": torch.tensor(1.0), "loss_b": torch.tensor(0.0)}
    found = exchange(losses, counts, failed=True)
    assert {name: float(loss) for name, loss in found.losses.items()} == {"loss_a": 6, "loss_b": 0, "loss_c": 5}
    assert found.flags.tolist() == [0, 0, 0.5]

"""Several processes compute what one does: losses, gradients and figures; each check runs in real gloo processes.

This file is also the script that each of these processes runs, with the name of a function.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CIFAR, ROOT, Group, write_classes
from torch import nn

IMAGES, SIDE = 6, 64
EMPTY = (0, 1)  # places of images without objects, or without a labelled pixel: those of the first of three processes


# --- what a process does ---


def gradients_equal() -> None:
    """Losses and gradients of all processes against those of one on the whole batch.

    In double precision but for the losses, so that proposals do not depend on rounding.
    """
    from tools.processes import distributed

    # Alone first, before there is a group; the others wait.
    alone = [gradients(*case, slice(None)) for case in cases()] if distributed.is_main() else []
    device = distributed.start()
    count = IMAGES // distributed.world_size()
    part = slice(distributed.rank() * count, (distributed.rank() + 1) * count)
    for place, (model, batch) in enumerate(cases()):
        losses, grads = gradients(distributed.wrap(model, device), batch, part)
        losses = {name: distributed.mean(loss) for name, loss in losses.items()}
        if distributed.is_main():
            expected = alone[place]
            torch.testing.assert_close(losses, expected[0], rtol=1e-5, atol=0)
            for name, grad in grads.items():
                assert (grad - expected[1][name]).norm() < 1e-4 * grad.norm(), name
    distributed.stop()


Batch = Callable[[slice], tuple[Any, Any]]


def cases() -> Iterator[tuple[nn.Module, Batch]]:
    """Nets, and what gives them a part of the batch."""
    import backbones
    import classification
    import detection
    import segmentation
    from segmentation.losses import PixelLoss

    torch.manual_seed(0)
    images = torch.rand(IMAGES, 3, SIDE, SIDE, dtype=torch.double)
    classifier = classification.build("resnet20", 5, norm="group").double()
    yield classifier, lambda part: (images[part], {"label": torch.arange(IMAGES)[part] % 5})
    for weights in (None, torch.tensor([0.2, 1.0, 3.0, 0.5])):
        segmenter = segmentation.build("resnet20", 4, head="fcn8s", norm="group").double()
        backbones.freeze_batch_norm(segmenter)  # of the heads; live norm is each process's own
        for module in segmenter.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        segmenter.loss = PixelLoss(class_weights=weights)
        yield segmenter, lambda part: (images[part], {"mask": masks()[part]})
    for neck in ("fpn", "c4", "dc5"):
        torch.manual_seed(0)  # the samplers of the one before drew by their processes' shares
        small = {"min_size": SIDE, "fpn_channels": 16, "head_channels": 64, "proposals": 4}
        of_masks = {"masks": neck == "fpn", "mask_channels": 8, "mask_size": 14}
        detector = detection.build("timm/test_resnet", 3, neck=neck, **small, **of_masks).double()
        for module in detector.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.ones_(module.weight)  # timm's residual branches begin with 0
        backbones.freeze_batch_norm(detector)  # as above
        sample_everything(detector)
        yield detector, lambda part: (list(images[part]), boxes()[part])


def gradients(model: nn.Module, batch: Batch, part: slice) -> tuple[dict[str, Any], dict[str, Any]]:
    """A net's losses on a part of the batch, and the gradients of all its parameters, by name."""
    losses = model.train()(*batch(part))
    sum(losses.values()).backward()
    grads = {name.removeprefix("module."): weight.grad for name, weight in model.named_parameters()}
    return {name: loss.detach() for name, loss in losses.items()}, grads


def masks() -> torch.Tensor:
    """Label maps whose shares of pixels that count differ widely."""
    labels = torch.randint(0, 4, (IMAGES, SIDE, SIDE), generator=torch.Generator().manual_seed(1))
    for place in range(IMAGES):
        labels[place, : SIDE if place in EMPTY else 9 * place] = 255
    return labels


def boxes() -> list[dict[str, torch.Tensor]]:
    """Two objects an image; in one a region that leaves few negatives."""
    two = torch.tensor([[4, 4, 40, 44], [24, 20, 60, 60]], dtype=torch.double)
    targets = [{"boxes": two + i, "labels": torch.tensor([1, 1 + i % 3]), "ignore": two[:0]} for i in range(IMAGES)]
    for place in EMPTY:
        targets[place] |= {"boxes": two[:0], "labels": torch.zeros(0, dtype=torch.int64)}
    for target in targets:
        target["masks"] = disks(target["boxes"])
    targets[-1]["ignore"] = torch.tensor([[0, 0, 64, 48]], dtype=torch.double)
    return targets


def disks(boxes: torch.Tensor) -> torch.Tensor:
    """For each box a disk as wide as the box, as a mask of the whole image."""
    at = torch.arange(SIDE) + 0.5
    middle, radius = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2] - boxes[:, 0]) / 2
    across, down = (at - middle[:, None, 0]) / radius[:, None], (at - middle[:, None, 1]) / radius[:, None]
    return (across[:, None] ** 2 + down[:, :, None] ** 2 < 1).to(torch.uint8)


def sample_everything(detector: nn.Module) -> None:
    """No sampling: each process draws its own, which no other can repeat."""
    for part in (detector.rpn, detector.roi_heads):
        part.fg_bg_sampler.batch_size_per_image = 100_000


def no_positives() -> None:
    """A batch without objects, under DistributedDataParallel: every trainable parameter takes a gradient."""
    import detection
    from tools.processes import distributed

    distributed.start()
    torch.manual_seed(distributed.rank())
    for neck in ("fpn", "c4", "dc5"):
        detector = detection.build(
            "timm/test_resnet", 3, neck=neck, min_size=SIDE, fpn_channels=16, fpn_norm="batch", head_channels=64
        )
        model = distributed.wrap(detector.train(), torch.device("cpu"))
        for _ in range(2):  # the second step waits for the gradients of the first
            targets = [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}]
            sum(model([torch.rand(3, SIDE, SIDE)], targets).values()).backward()
        assert [name for name, p in detector.named_parameters() if p.requires_grad and p.grad is None] == []
    distributed.stop()


def accumulation_reduces_once() -> None:
    """All-reduces of gradients are counted where DistributedDataParallel makes them."""
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

    from tools.engine import optim
    from tools.engine.loop import train_epoch
    from tools.engine.options import TrainOptions
    from tools.engine.state import Precision, Training
    from tools.processes import distributed

    device, reduced = distributed.start(), []
    model = Line()
    optimizer = optim.build_optimizer(model, TrainOptions(lr=0.1))
    wrapped = distributed.wrap(model, device)
    wrapped.register_comm_hook(None, lambda state, bucket: (reduced.append(1), allreduce_hook(state, bucket))[1])
    schedule = optim.build_schedule(optimizer, TrainOptions(lr=0.1), 10)
    training = Training(wrapped, optimizer, schedule, Precision(device, torch.float32))
    batches = [(torch.ones(2, 1), {"index": torch.arange(2)})] * 12
    steps = list(train_epoch(training, batches, accumulate=3))
    assert (len(steps), training.step, len(reduced)) == (4, 4, 4)
    distributed.stop()


def a_step_exchanges_once() -> None:
    """Collectives of a training step beside those of gradients: of detectors, and of segmentation with two losses."""
    import torch.distributed as dist

    import backbones
    import detection
    import segmentation
    from tools.engine import optim
    from tools.engine.loop import train_epoch
    from tools.engine.options import TrainOptions
    from tools.engine.state import Precision, Training
    from tools.processes import distributed

    device, made = distributed.start(), []
    for name in ("all_reduce", "broadcast", "all_gather", "all_gather_object", "_broadcast_coalesced"):
        work = getattr(dist, name)
        setattr(dist, name, lambda *given, work=work, name=name, **more: (made.append(name), work(*given, **more))[1])
    small = {"min_size": SIDE, "fpn_channels": 16, "head_channels": 64, "proposals": 4, "masks": True}
    target = {"boxes": torch.tensor([[4.0, 4, 40, 44]]), "labels": torch.tensor([1]), "image_id": torch.tensor(1)}
    target["masks"] = torch.ones(1, SIDE, SIDE, dtype=torch.uint8)
    labels = {"mask": torch.ones(2, SIDE, SIDE, dtype=torch.uint8), "image_id": torch.tensor([1, 2])}
    counted = {}
    for kind in ("frozen", "live", "labels"):
        if kind == "labels":
            model, batch, terms = segmentation.build("resnet20", 4), (torch.rand(2, 3, SIDE, SIDE), labels), 2
        else:
            model, batch, terms = (
                detection.build("timm/test_resnet", 3, **small),
                ([torch.rand(3, SIDE, SIDE)], [target]),
                5,
            )
        if kind != "live":
            backbones.freeze_batch_norm(model)
        optimizer, options = optim.build_optimizer(model, TrainOptions(lr=1e-4)), TrainOptions(lr=1e-4)
        wrapped = distributed.wrap(model, device)
        schedule = optim.build_schedule(optimizer, options, 10)
        training = Training(wrapped, optimizer, schedule, Precision(device, torch.float32))
        steps = train_epoch(training, [batch] * 4)
        next(steps)  # the first batch takes an agreement
        made.clear()
        losses = next(steps)
        counted[kind] = list(made)
        assert len(losses) == terms and all(loss.isfinite() for loss in losses.values())
        assert len(list(steps)) == 2
    assert counted["frozen"] == counted["labels"] == ["all_reduce"]
    assert sorted(counted["live"]) == ["_broadcast_coalesced", "all_reduce"]
    distributed.stop()


def a_later_batch_fails() -> None:
    """A process cannot read its third batch: all finish two steps and raise its error."""
    from backbones.errors import UserError
    from tools.engine import optim
    from tools.engine.loop import train_epoch
    from tools.engine.options import TrainOptions
    from tools.engine.state import Precision, Training
    from tools.processes import distributed

    def loader() -> Iterator[Any]:
        for number in range(4):
            if number == 2 and distributed.rank() == 1:
                raise UserError("b/2.png: does not decode")
            yield torch.ones(2, 1), {"index": torch.arange(2)}

    device, model = distributed.start(), Line()
    optimizer = optim.build_optimizer(model, TrainOptions(lr=0.1))
    schedule = optim.build_schedule(optimizer, TrainOptions(lr=0.1), 10)
    training = Training(distributed.wrap(model, device), optimizer, schedule, Precision(device, torch.float32))
    with pytest.raises(UserError, match=r"b/2\.png: does not decode"):
        for _ in train_epoch(training, loader()):
            pass
    assert training.step == 2
    distributed.stop()


class Line(nn.Module):
    """A weight, and a loss."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor, targets: Any) -> dict[str, torch.Tensor]:
        return {"loss": (self.w * x - 1).square().mean()}


def measure(folder: str) -> None:
    """The three scripts one after the other, evaluation alone, in one group of processes."""
    from tools import train_cls, train_det, train_seg
    from tools.processes import distributed

    distributed.start()
    stop, distributed.stop = distributed.stop, lambda: None

    common = ["--eval-only", "--workers", "0", "--threads", "1", "--precision", "fp32", "--batch-size", "6"]
    for script, data, words in ((train_cls, "classes", CLS), (train_det, "shapes", DET), (train_seg, "shapes", SEG)):
        task = script.__name__.removeprefix("tools.train_")
        for limit in LIMITS:
            files = ["--data", data, "--weights", f"{task}.safetensors", "--output", f"{folder}/{task}-{limit}"]
            script.main([*words, *common, *files, "--limit", str(limit)])  # a --config wins over what is before it
    stop()


LIMITS = (8, 2)  # images in batches of six: unequal shares on two processes; fewer images than three processes
CLS = CIFAR
DET = ("--recipe", "shapes", "--backbone", "timm/test_resnet", "--min-size", "64")
DET += ("--fpn-channels", "16")
SEG = ("--recipe", "standard", "--backbone", "timm/test_resnet", "--head", "fcn8s")


# --- what starts them ---


def require_success(ended: list[tuple[int, str, str]]) -> None:
    assert [status for status, _, _ in ended] == [0] * len(ended), "\n".join(errors for _, _, errors in ended)


@pytest.mark.parametrize("world", [2, 3])
def test_losses_and_gradients_are_those_of_one_process(group: Group, tmp_path: Path, world: int):
    require_success(group(__file__, "gradients_equal", cwds=[tmp_path] * world))


def test_a_batch_without_positives_leaves_no_parameter_without_gradient(group: Group, tmp_path: Path):
    require_success(group(__file__, "no_positives", cwds=[tmp_path] * 2))


def test_accumulated_batches_are_reduced_once_a_step(group: Group, tmp_path: Path):
    require_success(group(__file__, "accumulation_reduces_once", cwds=[tmp_path] * 2))


def test_a_step_exchanges_counts_and_flags_once(group: Group, tmp_path: Path):
    require_success(group(__file__, "a_step_exchanges_once", cwds=[tmp_path] * 2))


def test_a_batch_that_one_process_cannot_read_ends_all_after_the_steps_before(group: Group, tmp_path: Path):
    require_success(group(__file__, "a_later_batch_fails", cwds=[tmp_path] * 2))


@pytest.fixture
def nets(tmp_path: Path) -> Path:
    """A folder of data sets, and of random nets for them."""
    import classification
    import detection
    import segmentation
    from tools.engine.checkpoint import write_safetensors
    from tools.synthetic import shapes

    shapes.prepare(tmp_path, train=2, val=8, size=SIDE).rename(tmp_path / "shapes")
    write_classes(tmp_path / "classes", count=4)
    torch.manual_seed(0)
    models = {
        "cls": classification.build("timm/test_resnet", 3),
        "det": detection.build(
            "timm/test_resnet", 6, fpn_channels=16, fpn_norm="batch", norm="batch", head_channels=256
        ),
        "seg": segmentation.build("timm/test_resnet", 7, head="fcn8s", weights=None),
    }
    for task, model in models.items():
        write_safetensors(tmp_path / f"{task}.safetensors", model.state_dict(), {})
    return tmp_path


def test_figures_are_the_same_bytes_on_one_process_two_and_three(group: Group, nets: Path):
    for world in (1, 2, 3):
        require_success(group(__file__, "measure", f"on-{world}", cwds=[nets] * world))
    for world, limit in itertools.product((2, 3), LIMITS):
        for name in (f"cls-{limit}/predictions.csv", f"det-{limit}/detections.json", f"seg-{limit}/predictions.zip",
                     f"seg-{limit}/confusion.json"):  # fmt: skip
            assert (nets / f"on-{world}" / name).read_bytes() == (nets / "on-1" / name).read_bytes()
        for task in ("cls", "det", "seg"):
            ours, theirs = (results(nets / f"on-{n}/{task}-{limit}") for n in (world, 1))
            assert ours == theirs
    assert len(json.loads((nets / "on-1/det-8/detections.json").read_text())) > 100
    assert np.count_nonzero(json.loads((nets / "on-1/seg-8/confusion.json").read_text())["matrix"]) > 7


def results(folder: Path) -> str:
    """A run's figures as they were written, without the memory and the number of the processes that wrote them."""
    values = json.loads((folder / "results.json").read_text())
    del values["peak_memory"], values["environment"]
    return json.dumps(values)


QUICK = ("--recipe", "cifar", "--batch-size", 6, "--epochs", 1, "--threads", 1, "--precision", "fp32")


@pytest.mark.parametrize("split", ["train", "val"])
def test_one_process_with_a_broken_image_ends_all_with_one_line(group: Group, tmp_path: Path, split: str):
    write_classes(tmp_path / "data", count=4)
    (tmp_path / "data" / split / "b" / "2.png").write_bytes(b"\x89PNG")
    ended = group("train_cls.py", "--data", "data", *QUICK, "--workers", 1, cwds=[tmp_path] * 3)
    assert [status for status, _, _ in ended] == [2, 2, 2]
    (line,) = [line for _, _, errors in ended for line in errors.splitlines() if line.startswith("error: ")]
    assert f"data/{split}/b/2.png: does not decode" in line
    assert "Traceback" not in "".join(errors for _, _, errors in ended)


def test_data_that_one_machine_lacks_end_all_with_one_line(group: Group, tmp_path: Path):
    write_classes(tmp_path / "data", count=2)
    other = tmp_path / "other"
    other.mkdir()
    ended = group("train_cls.py", "--data", "data", *QUICK, "--workers", 0, cwds=[tmp_path, other])
    assert [status for status, _, _ in ended] == [2, 2]
    (line,) = "".join(errors for _, _, errors in ended).splitlines()
    assert line.startswith("error: --data data: no such folder; check the path (process 1, on ")


WRONG = {
    "--lr -1": "--lr -1.0: must be above 0",  # the command line: all find it by themselves
    "--norm sync": "--norm sync: torch synchronises batch norm on GPUs only",
    "--batch-size 7": "--batch-size 7: does not divide into 2 processes",
    "--timeout 0": "--timeout 0.0: must be above 0",
}


@pytest.mark.parametrize("words", WRONG)
def test_what_all_processes_find_is_said_once(group: Group, tmp_path: Path, words: str):
    ended = group("train_cls.py", "--recipe", "cifar", *words.split(), cwds=[tmp_path] * 2)
    assert [status for status, _, _ in ended] == [2, 2]
    (line,) = "".join(errors for _, _, errors in ended).splitlines()
    assert line.startswith(f"error: {WRONG[words]}")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    torch.set_num_threads(1)  # the processes are the parallelism
    globals()[sys.argv[1]](*sys.argv[2:])

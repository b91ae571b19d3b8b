"""Fused steps over weights in channels_last memory: torch's own numbers, layouts as they were."""

from __future__ import annotations

import copy
import re
from contextlib import nullcontext

import pytest
import torch
from timm.optim import create_optimizer_v2, list_optimizers
from torch import nn

from backbones.errors import UserError
from tools.engine import optim
from tools.engine.optim import build_optimizer, is_adaptive, learning_rate, memory_order
from tools.engine.options import TrainOptions


def net() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(5, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 1), nn.Flatten(), nn.Linear(4 * 36, 2)
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", list_optimizers())
def test_every_optimizer_of_timm_has_a_family_and_takes_no_momentum(name: str) -> None:
    """An optimizer is built, or refused in one line, for example because it needs a GPU or another library."""
    options = TrainOptions(optimizer=name, momentum=0.0, batch_size=64, base_batch_size=16, base_lr=0.01)
    # SGD and its layer-wise forms are the only ones that do not normalise by the gradients' history.
    plain = "sgd" in name or name in ("momentum", "nesterov", "nesterovw", "lars", "larc", "nlars", "nlarc")
    assert is_adaptive(name) is not plain
    assert learning_rate(options)[0] == pytest.approx(0.04 if plain else 0.02)  # 64 / 16 = 4, and its root is 2
    try:
        build_optimizer(net(), options)
    except UserError as error:
        assert re.match(rf"--optimizer {name}: cannot be used here \([^\n]+\); use another", str(error))
        assert name.startswith(("bnb", "fused")) or name == "adahessian"


def test_an_optimizer_of_an_unknown_family_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optim, "ADAPTIVE", optim.ADAPTIVE - {"Lion"})
    with pytest.raises(UserError, match="--optimizer clion: there is no rule by which its learning rate follows"):
        learning_rate(TrainOptions(optimizer="clion"))


@pytest.mark.parametrize("name", ["momentum", "sgd", "adamw", "adam"])
def test_steps_are_torchs_own_to_the_last_bit(name: str) -> None:
    ours, theirs = net(), net()
    options = TrainOptions(optimizer=name, lr=0.01)
    extra = {} if name.startswith("adam") else {"momentum": options.momentum}
    plain = create_optimizer_v2(theirs, opt=name, lr=0.01, weight_decay=options.weight_decay, fused=True, **extra)
    optimizer = build_optimizer(ours, options)
    images = torch.randn(2, 5, 8, 8).to(memory_format=torch.channels_last)
    for _ in range(3):
        for model, each in ((ours, optimizer), (theirs, plain)):
            model(images).square().sum().backward()
            with memory_order(each) if each is optimizer else nullcontext():
                each.step()
            each.zero_grad()
    for mine, other in zip(ours.parameters(), theirs.parameters()):
        assert torch.equal(mine, other)
        assert mine.stride() == other.stride()
        moments = [v for v in optimizer.state[mine].values() if v.ndim == 4]
        assert all(v.shape == mine.shape and v.stride() == mine.stride() for v in moments)
    assert optimizer.state_dict()["state"].keys() == plain.state_dict()["state"].keys()


def test_weights_lie_turned_during_the_step_alone() -> None:
    model = net()
    optimizer = build_optimizer(model, TrainOptions(lr=0.01))
    model(torch.randn(2, 5, 8, 8)).sum().backward()
    model[2].weight.grad = None  # a layer that nothing reached
    pointer = model[0].weight.data_ptr()
    with memory_order(optimizer):
        assert model[0].weight.shape == model[0].weight.grad.shape == (6, 3, 3, 5)
        optimizer.step()
    assert model[0].weight.shape == model[0].weight.grad.shape == (6, 5, 3, 3)
    assert model[0].weight.data_ptr() == pointer
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_an_error_in_the_step_leaves_the_weights_as_they_lay() -> None:
    model = net()
    optimizer = build_optimizer(model, TrainOptions(lr=0.01))
    model(torch.randn(2, 5, 8, 8)).sum().backward()
    with pytest.raises(KeyboardInterrupt), memory_order(optimizer):
        raise KeyboardInterrupt
    assert model[0].weight.shape == (6, 5, 3, 3)
    model(torch.randn(2, 5, 8, 8))


def test_moments_loaded_from_a_state_are_turned_as_well() -> None:
    model = net()
    optimizer = build_optimizer(model, TrainOptions(lr=0.1))
    for _ in range(2):
        model(torch.randn(2, 5, 8, 8)).sum().backward()
        with memory_order(optimizer):
            optimizer.step()
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert optimizer.state[model[0].weight]["momentum_buffer"].shape == (6, 5, 3, 3)

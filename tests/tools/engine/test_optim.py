"""Fused steps over weights in channels_last memory: torch's own numbers, layouts as they were."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import pytest
import torch
from timm.optim import create_optimizer_v2
from torch import nn

from tools.engine.optim import build_optimizer, memory_order
from tools.engine.options import TrainOptions


def net() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(5, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 1), nn.Flatten(), nn.Linear(4 * 36, 2)
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


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

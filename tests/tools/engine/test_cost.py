"""Golden table of the classification nets, computed on the meta device."""

import pytest
import torch
from torch import nn

import classification
from tools.engine.cost import macs, parameters

# published by torchvision for 224x224 and 1000 classes
GOLDEN = {
    "resnet18": (11_689_512, 1.814),
    "resnet34": (21_797_672, 3.664),
    "resnet50": (25_557_032, 4.089),
    "resnet101": (44_549_160, 7.801),
    "resnet152": (60_192_808, 11.514),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_table(name: str) -> None:
    with torch.device("meta"):
        net = classification.build(name, 1000)
    count, giga = GOLDEN[name]
    assert parameters(net) == count
    assert round(macs(net, 224) / 1e9, 3) == giga


def test_figures_of_one_convolution() -> None:
    conv = nn.Conv2d(4, 8, 3, padding=1, bias=False)
    assert parameters(conv) == 4 * 8 * 9
    assert macs(conv, (5, 7), in_channels=4) == 5 * 7 * 4 * 8 * 9


def test_counting_leaves_the_net_alone() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    macs(net, 16)
    assert net.training and net[0].weight.device.type == "cpu" and net[1].num_batches_tracked == 0

"""The RPN's sampled loss has torchvision's values and gradients, and coordinates are not rounded to 16 bits."""

from __future__ import annotations

import torch
from tolerances import assert_rounded
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import AnchorGenerator, RegionProposalNetwork, RPNHead

from backbones import FeatureInfo
from detection.rpn import RPN, Anchors

SIZES, RATIOS = ((16,), (32,)), ((0.5, 1.0, 2.0),) * 2
IMAGES = ImageList(torch.zeros(2, 3, 64, 96, dtype=torch.double), [(64, 90), (60, 96)])
TARGETS = [
    {"boxes": torch.tensor([[0.0, 0, 20, 20], [40, 30, 90, 60]], dtype=torch.double)},
    {
        "boxes": torch.tensor([[80.0, 40, 96, 60]], dtype=torch.double)
    },  # in a corner, where the head reads beyond two borders
]


def spread_weights(rpn: RegionProposalNetwork) -> None:
    torch.manual_seed(0)
    for module in rpn.head.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.normal_(module.weight, std=0.1)
            torch.nn.init.normal_(module.bias, std=0.1)


def torchvisions() -> RegionProposalNetwork:
    best = {"training": 50, "testing": 25}
    rpn = RegionProposalNetwork(AnchorGenerator(SIZES, RATIOS), RPNHead(8, 3), 0.7, 0.3, 256, 0.5, best, best, 0.7)
    spread_weights(rpn)
    return rpn.double()


def ours(dtype: torch.dtype = torch.double) -> RPN:
    rpn = RPN([FeatureInfo("p2", 8, 4), FeatureInfo("p3", 8, 8)], anchor_scale=4, proposals=25)
    spread_weights(rpn)
    return rpn.to(dtype)


def features(dtype: torch.dtype = torch.double) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    return {
        f"p{stride}": torch.randn(2, 8, 64 // stride, 96 // stride, generator=random).to(dtype).requires_grad_()
        for stride in (4, 8)
    }


def test_losses_gradients_and_proposals_equal_torchvisions():
    found = []
    for net in (torchvisions(), ours()):
        maps = features()
        torch.manual_seed(2)  # both sample anchors
        boxes, losses = net(IMAGES, maps, TARGETS)
        sum(losses.values()).backward()
        gradients = {**{name: p.grad for name, p in net.named_parameters()}, **{k: m.grad for k, m in maps.items()}}
        found.append((boxes, losses, gradients))
    torch.testing.assert_close(found[1], found[0])
    assert all(gradient.abs().max() > 1e-4 for gradient in found[0][2].values())


def test_losses_are_weighted_by_the_samples_of_this_process(monkeypatch):
    losses = []
    for weight in (1, 2):
        monkeypatch.setattr("backbones.common.processes.relative_count", lambda count, weight=weight: weight)
        torch.manual_seed(2)
        losses.append(ours()(IMAGES, features(), TARGETS)[1])
    torch.testing.assert_close(losses[1], {name: 2 * loss for name, loss in losses[0].items()})


def test_three_levels_have_torchvisions_losses():
    sizes, levels = (*SIZES, (64,)), [FeatureInfo(f"p{n}", 8, 2**n) for n in (2, 3, 4)]
    random = torch.Generator().manual_seed(3)
    maps = {info.name: torch.randn(2, 8, 64 // info.stride, 96 // info.stride, generator=random) for info in levels}
    maps = {name: values.double() for name, values in maps.items()}
    theirs, own = torchvisions(), RPN(levels, anchor_scale=4, proposals=25)
    theirs.anchor_generator = AnchorGenerator(sizes, (*RATIOS, RATIOS[0]))
    spread_weights(own)  # in single precision, as the other's were drawn
    own.double()
    losses = []
    for net in (theirs, own):
        torch.manual_seed(2)  # both sample anchors
        losses.append(net(IMAGES, maps, TARGETS)[1])
    torch.testing.assert_close(losses[1], losses[0])


def test_autocast_keeps_every_gradient():
    """Autocast copies each parameter once, and the head is first used without a gradient."""
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        net = ours(torch.float32)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            torch.manual_seed(2)
            targets = [{"boxes": target["boxes"].float()} for target in TARGETS]
            losses = net(IMAGES, features(torch.float32), targets)[1]
        sum(losses.values()).backward()
        gradients.append({name: p.grad for name, p in net.named_parameters()})
    # Two convolutions round their input, weight and output to 16 bits, forward and backward.
    assert_rounded(gradients[1], gradients[0], terms=3, layers=4, dtype=torch.bfloat16)


def test_coordinates_stay_exact_in_16_bits():
    maps = [torch.zeros(1, 8, 4, 300, dtype=torch.bfloat16)]
    images = ImageList(torch.zeros(1, 3, 16, 1200), [(16, 1200)])
    (anchors,) = Anchors(((16,),), ((1.0,),))(images, maps)
    assert anchors[-1].tolist() == [299 * 4 - 8, 3 * 4 - 8, 299 * 4 + 8, 3 * 4 + 8]  # 1188 and 1204 need eleven bits
    with torch.autocast("cpu", torch.bfloat16):
        boxes, _ = ours(torch.float32).eval()(IMAGES, {name: m.bfloat16() for name, m in features().items()})
    assert boxes[0].dtype == torch.float32
    assert not torch.equal(boxes[0], boxes[0].bfloat16().float())


def test_proposals_and_losses_in_one_call_are_those_of_both_modes():
    net, maps = ours(), features()
    torch.manual_seed(2)
    boxes, expected = net.train()(IMAGES, maps, TARGETS)
    assert [len(each) for each in boxes] == [50, 50]
    boxes, losses = net.eval()(IMAGES, maps, TARGETS)
    assert losses == {} and [len(each) for each in boxes] == [25, 25]
    torch.testing.assert_close(boxes, torchvisions().eval()(IMAGES, maps)[0])
    torch.manual_seed(2)
    torch.testing.assert_close(net.predict_with_losses(IMAGES, maps, TARGETS), (boxes, expected))


def test_sizes_of_anchors():
    """Eight strides a side: one size per level, or five sizes on a single level."""
    levels = [FeatureInfo("p2", 8, 4), FeatureInfo("p3", 8, 8)]
    assert Anchors.for_features(levels, 8).sizes == ((32,), (64,))
    single = Anchors.for_features([FeatureInfo("c4", 8, 16)], 8)
    assert single.sizes == ((32, 64, 128, 256, 512),) and single.aspect_ratios == ((0.5, 1.0, 2.0),)
    assert RPN(levels[:1], anchor_scale=4, proposals=25).head.cls_logits.out_channels == 15

"""Tests of shortcuts against hand-computed numbers, of dilation under option A, and of recomputed activations."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import backbones
import classification
from backbones.blocks import BasicBlock, Block, Bottleneck, Padding, Projection, make_shortcut, recomputed
from backbones.norm import norm_table


def block(kind: type[Block] = BasicBlock, *, inputs: int = 4, width: int = 4, stride: int = 1) -> Block:
    torch.manual_seed(2)
    return kind(inputs, width, stride=stride, dilations=(1, 1), style="v1.5", norm=nn.BatchNorm2d)


def test_option_a_takes_every_second_pixel_between_zeros() -> None:
    # channel 0 is 0..11 in rows of four, channel 1 is 100 more
    first = torch.arange(12.0).reshape(3, 4)
    out = Padding(2, 5, 2)(torch.stack([first, first + 100])[None])
    # rows 0 and 2, columns 0 and 2; three new channels: (5 - 2) // 2 = 1 before, 2 after
    kept, zeros = [[0.0, 2.0], [8.0, 10.0]], [[0.0, 0.0], [0.0, 0.0]]
    above = [[100.0, 102.0], [108.0, 110.0]]
    assert out.tolist() == [[zeros, kept, above, zeros, zeros]]


def test_option_a_without_stride_keeps_every_pixel() -> None:
    x = torch.randn(2, 4, 3, 5)
    out = Padding(4, 8, 1)(x)
    assert torch.equal(out[:, 2:6], x) and not out[:, :2].any() and not out[:, 6:].any()


def test_projection_is_a_strided_matrix_and_its_norm() -> None:
    torch.manual_seed(0)
    projection = Projection(3, 5, 2, nn.BatchNorm2d).eval()
    x = torch.randn(2, 3, 5, 5)
    matrix = projection[0].weight[:, :, 0, 0]
    expected = torch.einsum("oc,nchw->nohw", matrix, x[:, :, ::2, ::2]) / (1 + 1e-5) ** 0.5  # running variance 1
    torch.testing.assert_close(projection(x), expected)


@pytest.mark.parametrize(
    ("option", "size", "kind"),
    [
        ("A", (8, 8, 1), type(None)),
        ("B", (8, 8, 1), type(None)),
        ("C", (8, 8, 1), Projection),
        ("A", (8, 16, 2), Padding),
        ("B", (8, 16, 2), Projection),
        ("C", (8, 16, 2), Projection),
        ("A", (8, 32, 1), Padding),  # a bottleneck's first block widens without a stride
        ("B", (8, 32, 1), Projection),
        ("A", (8, 8, 2), Padding),
    ],
)
def test_where_an_option_has_which_shortcut(option: str, size: tuple[int, int, int], kind: type) -> None:
    inputs, outputs, stride = size
    assert type(make_shortcut(option, inputs, outputs, stride=stride, norm=nn.BatchNorm2d)) is kind


@pytest.mark.parametrize("residual", [True, False])
def test_basic_block_by_hand(residual: bool) -> None:
    made = block(stride=2, width=8).eval()
    made.residual, made.downsample = residual, Padding(4, 8, 2) if residual else None
    x = torch.randn(2, 4, 6, 6)
    scale = (1 + 1e-5) ** -0.5  # of a fresh batch norm: mean 0, variance 1
    inner = (F.conv2d(x, made.conv1.weight, stride=2, padding=1) * scale).relu()
    out = F.conv2d(inner, made.conv2.weight, padding=1) * scale
    if residual:
        out[:, 2:6] += x[:, :, ::2, ::2]
    torch.testing.assert_close(made(x), out.relu())


@pytest.mark.parametrize("kind", [BasicBlock, Bottleneck])
def test_without_a_branch_the_identity_remains(kind: type[Block]) -> None:
    made = block(kind, inputs=4 * kind.expansion)
    norm = made.bn3 if kind is Bottleneck else made.bn2
    nn.init.zeros_(norm.weight)
    x = torch.randn(2, 4 * kind.expansion, 5, 5)
    assert torch.equal(made(x), x.relu())
    made.residual = False
    assert not made(x).any()


def test_blocks_leave_their_input_alone() -> None:
    made, x = block(), torch.randn(2, 4, 5, 5)
    before = x.clone()
    made(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_dilation_under_option_a_computes_the_strided_map_at_every_second_pixel(name: str) -> None:
    options = {"weights": None, "shortcut": "A"}
    strided, dilated = backbones.build(name, **options), backbones.build(name, output_stride=8, **options)
    dilated.load_state_dict(strided.state_dict())
    x = torch.randn(1, 3, 96, 96, dtype=torch.double)
    coarse, fine = (net.double().eval()(x)["c5"] for net in (strided, dilated))
    assert fine.shape[-1] == 12 and coarse.shape[-1] == 3
    torch.testing.assert_close(fine[:, :, ::4, ::4], coarse)


def losses_of(net: nn.Module, steps: int = 2) -> list[Tensor]:
    """Train two steps on noise. The second step depends on the weights and statistics that the first one changed."""
    torch.manual_seed(5)
    optimizer = torch.optim.SGD(net.train().parameters(), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = net(torch.randn(4, 3, 32, 32), {"label": torch.tensor([0, 1, 2, 3])})["loss_cls"]
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return losses


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet20", {}),
        ("resnet20", {"shortcut": "C"}),
        ("resnet56", {}),
        ("plain20", {}),
        ("resnet20", {"norm": "group"}),
        ("resnet18", {"shortcut": "A"}),
        ("resnet50", {}),
    ],
)
def test_recomputing_changes_no_bit(name: str, options: dict) -> None:
    torch.manual_seed(1)
    kept = classification.build(name, 4, **options)
    twice = copy.deepcopy(kept)
    twice.backbone.recompute_activations()
    assert torch.equal(torch.stack(losses_of(kept)), torch.stack(losses_of(twice)))
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(kept.parameters(), twice.parameters()))
    state = twice.state_dict()
    assert list(state) == list(kept.state_dict())
    # running means and variances, and the number of batches, are among these
    assert all(torch.equal(value, state[key]) for key, value in kept.state_dict().items())


def test_recomputing_counts_a_batch_once() -> None:
    net = classification.build("resnet20", 4)
    net.backbone.recompute_activations()
    losses_of(net, steps=3)
    counts = {int(value) for key, value in net.state_dict().items() if key.endswith("num_batches_tracked")}
    assert counts == {3}


def test_recomputing_with_frozen_stages() -> None:
    kept = classification.build("resnet20", 4)
    kept.backbone.freeze_stages(2)
    twice = copy.deepcopy(kept)
    twice.backbone.recompute_activations()
    assert torch.equal(torch.stack(losses_of(kept)), torch.stack(losses_of(twice)))
    assert norm_table(twice) == {"frozen": 7, "live": 12}  # the stem, and three blocks of two
    assert all(torch.equal(a, b) for a, b in zip(kept.parameters(), twice.parameters()))


def saved_numbers(net: nn.Module) -> int:
    """Count the numbers that the forward pass stores for the backward pass, without parameters."""
    parameters = {p.data_ptr() for p in net.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in parameters:
            kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        graph = net.train()(torch.randn(2, 3, 32, 32))
    assert graph.requires_grad  # keeps the graph alive until here, so that no address is used twice
    return sum(kept.values())


def test_recomputing_keeps_a_quarter() -> None:
    net = classification.build("resnet56", 4)
    whole = saved_numbers(net)
    net.backbone.recompute_activations()
    # Of the four maps of a block (two outputs of convolutions, two of ReLUs) only its input is stored.
    assert 0.2 * whole < saved_numbers(net) < 0.3 * whole


def test_nothing_is_recomputed_in_evaluation() -> None:
    net = backbones.build("resnet20", weights=None).eval()
    x = torch.randn(1, 3, 32, 32, requires_grad=True)
    plain = net(x)["c2"]
    net.recompute_activations()
    calls = []
    net.layer1[0].conv1.register_forward_hook(lambda *_: calls.append(1))
    out = net(x)["c2"]
    out.sum().backward()
    assert torch.equal(out, plain) and len(calls) == 1


def test_training_runs_each_block_twice() -> None:
    net = backbones.build("resnet20", weights=None).train()
    net.recompute_activations()
    calls = []
    net.layer1[0].conv1.register_forward_hook(lambda *_: calls.append(1))
    net(torch.randn(2, 3, 32, 32))["c2"].sum().backward()
    assert len(calls) == 2


def test_statistics_come_back_after_an_error() -> None:
    made = block()
    statistics = made.bn1.running_mean

    out = recomputed(made, torch.randn(2, 4, 5, 5, requires_grad=True))

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    made.conv2.register_forward_hook(fail)
    moved = statistics.clone()
    with pytest.raises(RuntimeError, match="out of memory"):
        out.sum().backward()
    assert made.bn1.running_mean is statistics and torch.equal(statistics, moved)


def test_models_of_libraries_refuse_to_recompute() -> None:
    net = backbones.build("torchvision/resnet18", weights=None)
    with pytest.raises(
        backbones.UserError, match="resnet18: its activations cannot be recomputed in the backward pass"
    ):
        net.recompute_activations()

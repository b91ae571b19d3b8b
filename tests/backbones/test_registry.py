"""Tests of the registry of backbones: names, options, builders of plugins, lazy imports."""

import subprocess
import sys

import pytest
import torch
from torch import nn

import backbones
from backbones import registry
from backbones.errors import UserError

PUBLISHED = ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]


def test_names_come_in_natural_order() -> None:
    assert [n for n in backbones.names("resnet*") if n in PUBLISHED] == PUBLISHED
    assert backbones.names("plain*") == ["plain18", "plain20", "plain32", "plain34", "plain44", "plain56", "plain110"]
    assert backbones.names("resnet1*") == ["resnet18", "resnet101", "resnet110", "resnet152", "resnet1202"]
    assert backbones.names("nothing*") == []


def test_plain_patterns_list_ours_alone() -> None:
    assert not [n for n in backbones.names() if "/" in n]
    assert "timm/resnet50" in backbones.names("timm/resnet*")
    assert "torchvision/vgg16" in backbones.names("torchvision/*")


def test_duplicate_registration_is_refused() -> None:
    with pytest.raises(ValueError, match="'resnet18' is registered already"):
        backbones.register("resnet18")
    with pytest.raises(ValueError, match="slash"):
        backbones.register("timm/mine")


@pytest.fixture(autouse=True)
def _keep_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what a test registers."""
    backbones.names()  # registers ours
    monkeypatch.setattr(registry.BACKBONES, "_builders", dict(registry.BACKBONES._builders))


def test_registered_net_is_listed_and_built() -> None:
    @backbones.register("resnet_test")
    def _make(*, name: str, features: tuple[str, ...] | str, in_channels: int) -> backbones.Backbone:
        net = registry.BACKBONES["resnet18"](name="resnet18", features=features, in_channels=in_channels)
        net.name = name
        return net

    assert "resnet_test" in backbones.names("resnet*")
    assert backbones.build("resnet_test", weights=None).name == "resnet_test"


class Tiny(backbones.Backbone):
    """Minimal backbone of a plugin."""

    def __init__(self, in_channels: int = 3, features: tuple[str, ...] | str = "all") -> None:
        infos = {"c2": backbones.FeatureInfo("c2", 8, 4), "c3": backbones.FeatureInfo("c3", 16, 8)}
        chosen = backbones.choose_features("tiny", features, tuple(infos))
        super().__init__(name="tiny", feature_info=[infos[f] for f in chosen], in_channels=in_channels)
        self.first, self.second = nn.Conv2d(in_channels, 8, 4, stride=4), nn.Conv2d(8, 16, 2, stride=2)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        first = self.first(x)
        maps = {"c2": first, "c3": self.second(first)}
        return {info.name: maps[info.name] for info in self.feature_info}


def test_builder_with_two_options() -> None:
    @backbones.register("tiny")
    def _tiny(*, features: tuple[str, ...] | str, in_channels: int, **ignored: object) -> Tiny:
        assert not ignored
        return Tiny(in_channels, features)

    net = backbones.build("tiny", weights=None, features=("c3",), in_channels=2)
    assert {k: list(v.shape) for k, v in net(torch.zeros(1, 2, 16, 24)).items()} == {"c3": [1, 16, 2, 3]}
    assert [f.name for f in backbones.build("tiny", weights=None, features="last").feature_info] == ["c3"]
    for options, said in (
        ({"output_stride": 8}, "tiny: output_stride=8 is not available for this backbone; leave output_stride out"),
        ({"norm": "group"}, "tiny: norm='group' is not available for this backbone; leave norm out (its default is 'b"),
        ({"stride_style": "v1"}, "tiny: stride_style='v1' is not available for this backbone"),
        ({"shortcut": "C"}, "tiny: shortcut='C' is not available for this backbone"),
    ):
        with pytest.raises(UserError) as caught:
            backbones.build("tiny", weights=None, **options)
        assert str(caught.value).startswith(said) and "\n" not in str(caught.value)
    # `build` converts batch norm for "sync" and "frozen", so every builder supports them.
    assert backbones.build("tiny", weights=None, norm="sync").name == "tiny"
    with pytest.raises(UserError, match="tiny: no published weights 'imagenet' exist"):
        backbones.build("tiny")


def test_result_of_a_builder_without_options_is_checked() -> None:
    backbones.register("tiny")(lambda: Tiny())
    assert len(backbones.build("tiny", weights=None, features=("c2", "c3")).feature_info) == 2
    with pytest.raises(UserError, match=r"tiny: features=\('c3',\) were chosen, but the backbone returns c2, c3; "):
        backbones.build("tiny", weights=None, features=("c3",))
    with pytest.raises(UserError, match=r"tiny: features='last' were chosen, but the backbone returns c2, c3; "):
        backbones.build("tiny", weights=None, features="last")
    with pytest.raises(UserError, match="tiny: in_channels=1 was chosen, but the backbone has 3 input channels; "):
        backbones.build("tiny", weights=None, in_channels=1)


def test_builder_that_ignores_the_stride_is_refused() -> None:
    @backbones.register("strided")
    def _strided(*, output_stride: int) -> backbones.Backbone:
        return registry.BACKBONES["resnet18"](name="resnet18")

    with pytest.raises(
        UserError, match="strided: output_stride=16 was chosen, but the backbone's output has stride 32; "
    ):
        backbones.build("strided", weights=None, output_stride=16)


def test_builder_of_something_else_is_refused() -> None:
    backbones.register("conv")(lambda: nn.Conv2d(3, 8, 1))
    with pytest.raises(
        UserError, match=r"conv: its builder returned an object of type Conv2d; return a backbones\.Backbone"
    ):
        backbones.build("conv", weights=None)


def test_builder_that_requires_more_is_refused_where_it_is_registered() -> None:
    with pytest.raises(ValueError, match="backbone 'wide': its builder requires the parameter 'width', which"):
        backbones.register("wide")(lambda features, width: None)
    with pytest.raises(ValueError, match="requires the parameter 'features'"):
        backbones.register("wide")(lambda features, /: None)
    assert "wide" not in backbones.names()


def test_plugins_cannot_use_names_of_our_own_backbones() -> None:
    code = "import backbones; backbones.register('resnet18')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "backbone 'resnet18' is registered already, by backbones.resnet._build" in done.stderr


def test_unknown_name_gets_suggestions() -> None:
    with pytest.raises(UserError) as caught:
        backbones.build("resnet51", weights=None)
    text = str(caught.value)
    assert "unknown backbone 'resnet51'" in text and "resnet50" in text and "\n" not in text
    assert text.split("did you mean ")[1].count(",") <= 4
    with pytest.raises(UserError, match=r"unknown backbone 'timm/resnet51'.*timm/resnet50"):
        backbones.build("timm/resnet51", weights=None)
    with pytest.raises(UserError, match="unknown backbone 'hub/x'"):
        backbones.build("hub/x", weights=None)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"output_stride": 4}, "output_stride=4: expected one of 32, 16, 8"),
        ({"norm": "layer"}, "norm='layer': expected one of 'batch', 'sync', 'frozen', 'group'"),
        ({"stride_style": "v2"}, "stride_style='v2'"),
        ({"in_channels": 0}, "in_channels=0"),
        ({"features": "c5"}, "features='c5'"),
        ({"features": ()}, "features="),
        ({"features": ("c5", "c2")}, "different names in ascending order"),
        ({"features": ("c5", "c6")}, "resnet18: has no feature c6; choose from c2, c3, c4, c5"),
        ({"norm": "frozen"}, "random statistics"),
    ],
)
def test_errors_say_what_is_wrong_and_how_to_fix_it(options: dict, said: str) -> None:
    with pytest.raises(UserError) as caught:
        backbones.build("resnet18", weights=None, **options)
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("module", ["backbones.registry", "backbones.errors", "backbones", "classification"])
def test_import_brings_no_heavy_library(module: str) -> None:
    code = f"import sys, {module}; print([m for m in ('torch', 'timm', 'albumentations') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_building_ours_imports_no_timm() -> None:
    code = "import sys, backbones; backbones.build('resnet18', weights=None); print('timm' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

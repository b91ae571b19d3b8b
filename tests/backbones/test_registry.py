"""Names, options and laziness of the registry."""

import subprocess
import sys

import pytest

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


def test_registered_net_is_listed_and_built(monkeypatch: pytest.MonkeyPatch) -> None:
    backbones.names()  # the registry is full before it is copied
    monkeypatch.setattr(registry, "_BUILDERS", dict(registry._BUILDERS))

    @backbones.register("resnet_test")
    def _make(*, name: str, **options: object) -> backbones.Backbone:
        net = registry._BUILDERS["resnet18"](name="resnet18", **options)
        net.name = name
        return net

    assert "resnet_test" in backbones.names("resnet*")
    assert backbones.build("resnet_test", weights=None).name == "resnet_test"


def test_unknown_name_gets_near_ones() -> None:
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
        ({"features": ("c5", "c2")}, "rising"),
        ({"features": ("c5", "c6")}, "resnet18 has no feature c6; it has c2, c3, c4, c5"),
        ({"norm": "frozen"}, "random statistics"),
    ],
)
def test_wrong_options_say_what_and_the_way_out(options: dict, said: str) -> None:
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

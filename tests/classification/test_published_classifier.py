"""Published classifiers by name, without a training."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torchvision.models import ResNet18_Weights, get_model_weights, resnet18

import classification
from backbones.errors import UserError
from backbones.published_models import PUBLISHED, PublishedModel
from backbones.weights.published import fetch
from classification import published
from tools.prediction.opening import open_model


def test_a_published_classifier_predicts_as_torchvisions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    torch.manual_seed(0)
    theirs = resnet18().eval()
    torch.save(theirs.state_dict(), cache / "net.pth")
    name = f"resnet18-{sha256((cache / 'net.pth').read_bytes()).hexdigest()[:8]}.pth"
    (cache / "net.pth").rename(cache / name)
    real = ResNet18_Weights.IMAGENET1K_V1
    tags = {"IMAGENET1K_V1": SimpleNamespace(url=f"http://127.0.0.1:9/{name}", meta=real.meta)}

    class Weights(dict):  # torchvision's enumeration with the address of another file
        __members__ = tags

    def weights(model: str) -> object:
        return Weights(tags) if model == "resnet18" else get_model_weights(model)

    for place in ("backbones.weights.published", "classification.published"):
        monkeypatch.setattr(f"{place}.get_model_weights", weights)
    model = classification.load("resnet18", device="cpu", precision="fp32", top=3)
    image = torch.randint(256, (3, 300, 260), dtype=torch.uint8)
    view = model.read(image)[0]
    with torch.no_grad():
        expected = theirs(model.model.backbone.normalise(view[None]))[0].softmax(0)
    found = model(image)
    assert view.shape == (3, 224, 224) and len(model.classes) == 1000 and model.classes[0] == "tench"
    assert torch.allclose(found.probabilities, expected[found.labels], atol=1e-6)  # of values up to 1, in fp32
    assert found.labels[0] == expected.argmax() and set(published.MODELS) > {"resnet18"}


def test_a_published_model_that_cannot_be_downloaded_takes_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    address = "http://127.0.0.1:9/net-12345678.pth"  # nothing listens there
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setitem(
        PUBLISHED._builders, "absent", lambda: PublishedModel(address, lambda: fetch(address, what="resnet"))
    )
    cannot = rf"^absent: cannot download net-12345678\.pth into {tmp_path}/checkpoints \(.+\); "
    with pytest.raises(UserError, match=rf"{cannot}download {address} elsewhere and put it into that folder$"):
        open_model("absent")
    assert not list((tmp_path / "checkpoints").glob("*.safetensors"))
    question = "no such run folder or weights file; check the path, or did you mean the published model coco-masks or"
    with pytest.raises(UserError, match=f"^coco-mask: {question}"):
        open_model("coco-mask")

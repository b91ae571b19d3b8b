"""The steps before a model, as ONNX operators: onnxruntime and OpenVINO compute what PyTorch computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import require_openvino

from detection.preprocess import Preprocessor
from tests.tolerances import assert_rounded
from tools.exports.raw_images import raw_label_pipeline, raw_pipeline

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
# A position of up to 300 pixels rounds by 300 eps / 2, and the pixels at its sides may differ by the whole range.
POSITIONS = 300**2
SHAPES = ((128, 128), (128, 86), (96, 128), (33, 17), (300, 120))


def outputs(text: str, path: Path, images: list[np.ndarray], library: str) -> list[list[np.ndarray]]:
    """Run a graph on each image with a library."""
    from onnx import helper, parser

    graph = parser.parse_graph(text)
    onnx.save(helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 18)]), path)
    if library == "onnxruntime":
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return [session.run(None, {"image": image}) for image in images]
    openvino = require_openvino()
    model = openvino.compile_model(openvino.convert_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return [[found[output] for output in model.outputs] for found in map(model, ([image] for image in images))]


@pytest.mark.parametrize("library", ["onnxruntime", "openvino"])
def test_images_are_resized_normalised_and_padded_as_pytorch_does(tmp_path: Path, library: str) -> None:
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (1, *shape, 3), dtype=np.uint8) for shape in SHAPES]
    planes = [torch.from_numpy(image[0]).movedim(-1, 0) for image in images]
    transform = Preprocessor(MEAN, STD, min_size=128, max_size=160).eval()
    found = outputs(raw_pipeline(transform).before, tmp_path / "boxes.onnx", images, library)
    for (pixels, sizes, _), image in zip(found, planes, strict=True):
        batch, _ = transform([image])
        assert sizes.tolist() == [list(batch.image_sizes[0])]
        assert_rounded(torch.from_numpy(pixels), batch.tensors, terms=POSITIONS)
    # Of segmentation: with antialiasing, and before normalising.
    found = outputs(raw_label_pipeline(MEAN, STD, min_size=50).before, tmp_path / "labels.onnx", images, library)
    mean, std = (torch.tensor(each)[:, None, None] for each in (MEAN, STD))
    for (pixels, _), image in zip(found, planes, strict=True):
        height, width = image.shape[1:]
        size = [round(side * (50 / min(height, width))) for side in (height, width)]
        small = torch.nn.functional.interpolate(image[None].float(), size=size, mode="bilinear", antialias=True)
        assert_rounded(torch.from_numpy(pixels), (small / 255 - mean) / std, terms=POSITIONS)

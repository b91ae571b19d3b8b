"""Writes OpenVINO files from ONNX files."""

from __future__ import annotations

import json
from pathlib import Path

from backbones.errors import UserError
from backbones.weights.exported import METADATA, open_onnx, reason


def require_openvino() -> None:
    """Check that OpenVINO is installed.

    Raises:
        UserError: it is not.
    """
    try:
        import openvino  # noqa: F401  # an optional package
    except ImportError:
        raise UserError("--format openvino: needs openvino; pip install 'resnet-transfer[openvino]'") from None


def write_openvino(source: Path, target: Path) -> None:
    """Convert an ONNX file to OpenVINO's graph (.xml) and weights (.bin), with the metadata of the ONNX file.

    Raises:
        UserError: OpenVINO lacks an operator of the model.
    """
    import openvino  # an optional package

    metadata = dict(open_onnx(source, 1).metadata)
    try:
        model = openvino.convert_model(source)
        model.set_rt_info(json.dumps(metadata), list(METADATA))
        openvino.save_model(model, target, compress_to_fp16=False)
    except Exception as error:  # its errors have no common class
        raise UserError(f"OpenVINO cannot hold this model ({reason(error)}); use --format onnx") from None

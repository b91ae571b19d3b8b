"""Writes ONNX files whose layers have weights and activations of 16 bits, and all else 32."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from onnx import GraphProto

LAYERS = {"Conv", "Gemm", "MatMul"}
# Stay in 16 bits between layers. A detector also adds and multiplies coordinates of boxes, which need 32 bits.
BETWEEN = {"Relu", "Add", "MaxPool", "GlobalAveragePool", "ReduceMean", "Flatten", "Clip", "Concat", "AveragePool"}


def write_half(source: Path, target: Path) -> None:
    """Write a copy of an fp32 ONNX file with layers in fp16. Inputs and outputs stay fp32."""
    import onnx  # an optional package
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    model = onnx.load(source)
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"node_{number}"
    half = half_nodes(model.graph)
    others = [node.name for node in model.graph.node if node.name not in half]
    # Shape inference would not know the shapes of a detector's boxes.
    largest = float(np.finfo(np.float16).max)  # the default limit of 1e4 would clip larger weights
    half_model = convert_float_to_float16(model, keep_io_types=True, node_block_list=others, max_finite_val=largest)
    # The conversion appends its casts to the end of the graph, but `join_raw` needs nodes in the order of computing.
    OnnxModel(half_model).topological_sort()
    onnx.save(half_model, target)


def half_nodes(graph: GraphProto) -> set[str]:
    """Return the names of the nodes to compute in 16 bits: layers with weights, and what lies between such nodes.

    Args:
        graph: with named nodes, each after those whose outputs it reads.
    """
    weights = {each.name for each in graph.initializer}
    from_half: set[str] = set()
    found: set[str] = set()
    for node in graph.node:
        read = [name for name in node.input if name and name not in weights]
        is_layer = node.op_type in LAYERS and any(name in weights for name in node.input)
        if is_layer or (node.op_type in BETWEEN and read and from_half.issuperset(read)):
            found.add(node.name)
            from_half.update(node.output)
    return found

"""The steps before and after a detector as ONNX operators: a file that takes images as they are decoded."""

from __future__ import annotations

from pathlib import Path

from detection.preprocess import Preprocessor
from tools.exports.exportable import RawPipeline

# Sides are computed in double precision, as PyTorch computes them, because they are rounded down.
BEFORE = """
prepare (uint8[N, H, W, 3] image) => (float[N, 3, PH, PW] images, float[N, 2] sizes, float[4] scale)
<
    float[3] mean = {{{mean}}}, float[3] std = {{{std}}}, float full = {{255}},
    double short_side = {{{short}}}, double long_side = {{{long}}}, int64 multiple = {{{multiple}}}, int64 one = {{1}},
    int64[1] two = {{2}}, int64[1] six = {{6}}, int64[2] sides = {{1, 2}}, int64[4] order = {{1, 0, 1, 0}}
>
{{
    whole = Shape (image)
    given = Gather <axis = 0> (whole, sides)
    exact = Cast <to = 11> (given)
    shortest = ReduceMin <keepdims = 0> (exact)
    longest = ReduceMax <keepdims = 0> (exact)
    by_short = Div (short_side, shortest)
    by_long = Div (long_side, longest)
    factor = Min (by_short, by_long)
    enlarged = Mul (exact, factor)
    lower = Floor (enlarged)
    rounded = Cast <to = 7> (lower)
    content = Max (rounded, one)
    values = Cast <to = 1> (image)
    unit = Div (values, full)
    centred = Sub (unit, mean)
    normal = Div (centred, std)
    planes = Transpose <perm = [0, 3, 1, 2]> (normal)
    outer = Shape <end = 2> (planes)
    target = Concat <axis = 0> (outer, content)
    none = Constant <value = float[0] {{}}> ()
    resized = Resize <coordinate_transformation_mode = "half_pixel", mode = "linear"> (planes, none, none, target)
    less = Sub (content, one)
    cells = Div (less, multiple)
    more = Add (cells, one)
    padded = Mul (more, multiple)
    missing = Sub (padded, content)
    zeros = ConstantOfShape <value = int64[1] {{0}}> (six)
    pads = Concat <axis = 0> (zeros, missing)
    images = Pad (resized, pads)
    as_floats = Cast <to = 1> (content)
    count = Shape <start = 0, end = 1> (image)
    repeats = Concat <axis = 0> (count, two)
    sizes = Expand (as_floats, repeats)
    given_floats = Cast <to = 1> (given)
    ratios = Div (given_floats, as_floats)
    scale = Gather <axis = 0> (ratios, order)
}}
"""
AFTER = """
finish (float[D, 4] boxes, float[4] scale) => (float[D, 4] scaled)
{
    scaled = Mul (boxes, scale)
}
"""


def raw_pipeline(transform: Preprocessor) -> RawPipeline:
    """Return the graphs that do before and after a detector what `Preprocessor` does."""
    before = BEFORE.format(
        mean=", ".join(f"{value!r}" for value in transform.image_mean),
        std=", ".join(f"{value!r}" for value in transform.image_std),
        short=float(transform.min_size[-1]),
        long=float(transform.max_size),
        multiple=transform.size_divisible,
    )
    return RawPipeline(before, AFTER)


def join_raw(path: Path, raw: RawPipeline) -> None:
    """Put the steps before and after the model into the ONNX file of a detector, whose metadata is kept."""
    import onnx  # an optional package
    from onnx import compose, helper, parser

    model = onnx.load(path)
    versions = {"ir_version": model.ir_version, "opset_imports": list(model.opset_import)}
    before, after = (helper.make_model(parser.parse_graph(text), **versions) for text in (raw.before, raw.after))
    names = [each.name for each in model.graph.output]
    joined = compose.merge_models(before, model, [("images", "images"), ("sizes", "sizes")], outputs=["scale", *names])
    whole = compose.merge_models(
        joined, after, [("boxes", "boxes"), ("scale", "scale")], outputs=["scaled", *names[1:]]
    )
    # The boxes in pixels of the images take the name of those that the model returns.
    names_after = {"boxes": "boxes_of_resized", "scaled": "boxes"}
    for node in whole.graph.node:
        node.input[:] = [names_after.get(name, name) for name in node.input]
        node.output[:] = [names_after.get(name, name) for name in node.output]
    outputs = {names_after.get(each.name, each.name): each for each in whole.graph.output}
    outputs["boxes"].name = "boxes"
    ordered = [outputs[name] for name in names]
    del whole.graph.output[:]
    whole.graph.output.extend(ordered)
    helper.set_model_props(whole, {each.key: each.value for each in model.metadata_props})
    onnx.checker.check_model(whole)
    onnx.save(whole, path)

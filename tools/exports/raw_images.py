"""The steps before and after a model as ONNX operators: a file that takes images as they are decoded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from detection.preprocess import Preprocessor
from tools.exports.exportable import RawPipeline

if TYPE_CHECKING:
    from onnx import GraphProto

# Sides are computed in double precision, as PyTorch computes them, because they are rounded down. The smaller factor is
# not taken with Min, because OpenVINO 2026.4 inverts quotients that it fuses with Min.
BEFORE = """
prepare (uint8[N, H, W, 3] image) => (float[N, 3, PH, PW] images, float[N, 2] sizes, float[4] scale)
<
    float[3] mean = {{{mean}}}, float[3] std = {{{std}}}, float full = {{255}},
    double[2] limits = {{{short}, {long}}}, int64 multiple = {{{multiple}}}, int64 one = {{1}},
    int64[1] two = {{2}}, int64[1] six = {{6}}, int64[2] sides = {{1, 2}}, int64[4] order = {{1, 0, 1, 0}}
>
{{
    whole = Shape (image)
    given = Gather <axis = 0> (whole, sides)
    exact = Cast <to = 11> (given)
    shortest = ReduceMin (exact)
    longest = ReduceMax (exact)
    extremes = Concat <axis = 0> (shortest, longest)
    factors = Div (limits, extremes)
    factor = ReduceMin <keepdims = 0> (factors)
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
# Images of a segmentation model are resized with antialiasing and before they are normalised.
LABELS_BEFORE = """
prepare (uint8[N, H, W, C] image) => (float[N, C, IH, IW] images, int64[2] given)
<
    float[{channels}, 1, 1] mean = {{{mean}}}, float[{channels}, 1, 1] std = {{{std}}}, float full = {{255}},
    double short_side = {{{short}}}, double one = {{1}}, int64[2] sides = {{1, 2}}, int64 first = {{0}},
    int64 second = {{1}}, int64[1] last_axis = {{1}}, float half = {{0.5}}, float unit_spread = {{1}}
>
{{
    whole = Shape (image)
    given = Gather <axis = 0> (whole, sides)
    turned = Transpose <perm = [0, 3, 1, 2]> (image)
    planes = Cast <to = 1> (turned)
{resize}
    unit = Div (resized, full)
    centred = Sub (unit, mean)
    images = Div (centred, std)
}}
"""
# Sides are rounded as Python does it: in double precision, halves to even. ONNX's own antialiasing is not used, because
# OpenVINO ignores it. A resized image is the product of the image and of the weights of its rows and columns.
RESIZE = """
    exact = Cast <to = 11> (given)
    shortest = ReduceMin <keepdims = 0> (exact)
    factor = Div (short_side, shortest)
    enlarged = Mul (exact, factor)
    rounded = Round (enlarged)
    wanted = Max (rounded, one)
    content = Cast <to = 7> (wanted)
    ratio_exact = Div (exact, wanted)
    ratios = Cast <to = 1> (ratio_exact)
    spreads = Max (ratios, unit_spread)
{rows}{columns}
    columns_turned = Transpose <perm = [1, 0]> (columns_weights)
    narrow = MatMul (planes, columns_turned)
    resized = MatMul (rows_weights, narrow)
"""
# The weights of an axis: a triangle around the centre of each new pixel, as wide as the new pixel, at least two pixels.
AXIS = """
    {axis}_ratio = Gather (ratios, {number})
    {axis}_spread = Gather (spreads, {number})
    {axis}_new = Gather (content, {number})
    {axis}_given = Gather (given, {number})
    {axis}_new_at = Range (first, {axis}_new, second)
    {axis}_new_float = Cast <to = 1> ({axis}_new_at)
    {axis}_new_middle = Add ({axis}_new_float, half)
    {axis}_centre = Mul ({axis}_new_middle, {axis}_ratio)
    {axis}_centres = Unsqueeze ({axis}_centre, last_axis)
    {axis}_at = Range (first, {axis}_given, second)
    {axis}_float = Cast <to = 1> ({axis}_at)
    {axis}_middle = Add ({axis}_float, half)
    {axis}_apart = Sub ({axis}_middle, {axis}_centres)
    {axis}_distance = Abs ({axis}_apart)
    {axis}_steps = Div ({axis}_distance, {axis}_spread)
    {axis}_height = Sub (unit_spread, {axis}_steps)
    {axis}_triangle = Relu ({axis}_height)
    {axis}_sum = ReduceSum <keepdims = 1> ({axis}_triangle, last_axis)
    {axis}_weights = Div ({axis}_triangle, {axis}_sum)
"""
LABELS_AFTER = """
finish (float[N, K, SH, SW] scores, int64[2] given) => (float[N, K, H, W] scores_of_image, uint8[N, H, W] labels)
{
    scores_outer = Shape <end = 2> (scores)
    scores_target = Concat <axis = 0> (scores_outer, given)
    no_scales = Constant <value = float[0] {}> ()
    scores_of_image = Resize <coordinate_transformation_mode = "half_pixel", mode = "linear">
        (scores, no_scales, no_scales, scores_target)
    best = ArgMax <axis = 1, keepdims = 0> (scores_of_image)
    labels = Cast <to = 2> (best)
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
    return RawPipeline(before, AFTER, carried="scale", renamed={"scaled": "boxes"})


def raw_label_pipeline(mean: Sequence[float], std: Sequence[float], *, min_size: int) -> RawPipeline:
    """Return the graphs that do before and after a segmentation model what `segmentation.Predictor` does.

    Args:
        mean, std: one value per channel, for pixels in 0..1.
        min_size: shorter side to which images are resized; 0 keeps their sizes.
    """
    axes = {name: AXIS.format(axis=name, number=at) for name, at in (("rows", "first"), ("columns", "second"))}
    resize = RESIZE.format(**axes)
    before = LABELS_BEFORE.format(
        channels=len(mean),
        mean=", ".join(f"{value!r}" for value in mean),
        std=", ".join(f"{value!r}" for value in std),
        short=float(min_size),
        resize=resize if min_size else "    resized = Identity (planes)",
    )
    return RawPipeline(before, LABELS_AFTER, carried="given", renamed={"scores_of_image": "scores"})


def join_raw(path: Path, raw: RawPipeline) -> None:
    """Put the steps before and after the model into its ONNX file, whose metadata is kept."""
    import onnx  # an optional package
    from onnx import compose, helper, parser

    model = onnx.load(path)
    versions = {"ir_version": model.ir_version, "opset_imports": list(model.opset_import)}
    before, after = (helper.make_model(parser.parse_graph(text), **versions) for text in (raw.before, raw.after))
    for part in (before, after):
        _drop_unused(part.graph)
    names = [each.name for each in model.graph.output]
    read = [each.name for each in after.graph.input if each.name != raw.carried]
    made = [each.name for each in after.graph.output]
    kept = [name for name in names if name not in read]
    inputs = [(each.name, each.name) for each in model.graph.input]
    joined = compose.merge_models(before, model, inputs, outputs=[raw.carried, *names])
    links = [(name, name) for name in (*read, raw.carried)]
    whole = compose.merge_models(joined, after, links, outputs=[*made, *kept])
    # Outputs of the last steps take the names of the model's, which get other names.
    new_names = {name: f"{name}_of_model" for name in raw.renamed.values()} | raw.renamed
    for node in whole.graph.node:
        node.input[:] = [new_names.get(name, name) for name in node.input]
        node.output[:] = [new_names.get(name, name) for name in node.output]
    for each in whole.graph.output:
        each.name = new_names.get(each.name, each.name)
    outputs = {each.name: each for each in whole.graph.output}
    ordered = [outputs.pop(name) for name in names] + list(outputs.values())
    del whole.graph.output[:]
    whole.graph.output.extend(ordered)
    helper.set_model_props(whole, {each.key: each.value for each in model.metadata_props})
    onnx.checker.check_model(whole)
    onnx.save(whole, path)


def _drop_unused(graph: GraphProto) -> None:
    """Remove the constants that no node reads, in place. Programs that open the file would be warned of each."""
    used = {name for node in graph.node for name in node.input}
    kept = [each for each in graph.initializer if each.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)

"""Small changes of a Python module, one at a time: comparisons, arithmetic, constants, booleans, returned values."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift,
}
NAMES = {"min": "max", "any": "all", "minimum": "maximum", "amin": "amax", "argmin": "argmax", "floor": "ceil"}
NAMES |= {other: name for name, other in NAMES.items()}
SKIPPED = (ast.JoinedStr, ast.Raise, ast.Assert, ast.Import, ast.ImportFrom)  # messages, and what runs cannot reach


@dataclass(frozen=True)
class Mutant:
    """One change of a module.

    Attributes:
        number: index among the mutants of the module.
        line: line of the changed expression, from 1.
        lines: first and last line of its statement; of a compound statement only the header.
        scope: names of the enclosing classes and functions, joined by dots; "" at the top of the module.
        before: the expression as it is.
        after: the expression after the change.
        inside: whether the expression is within a function, so that its lines tell which tests reach it.
    """

    number: int
    line: int
    lines: tuple[int, int]
    scope: str
    before: str
    after: str
    inside: bool


@dataclass(frozen=True)
class _Place:
    scope: str = ""
    inside: bool = False
    lines: tuple[int, int] = (0, 0)


@dataclass
class _Site:
    place: _Place
    node: ast.AST
    replacement: ast.AST
    replace: Callable[[ast.AST], None]


def mutants(source: str) -> list[Mutant]:
    """Return all mutants of a module's source text."""
    return [
        Mutant(
            number,
            each.node.lineno,
            each.place.lines,
            each.place.scope,
            ast.unparse(each.node),
            ast.unparse(each.replacement),
            each.place.inside,
        )
        for number, each in enumerate(_below(ast.parse(source), _Place()))
    ]


def mutated(source: str, number: int) -> ast.Module:
    """Return the tree of a module with the mutant of that number in place."""
    tree = ast.parse(source)
    site = list(_below(tree, _Place()))[number]
    site.replace(ast.copy_location(site.replacement, site.node))
    return ast.fix_missing_locations(tree)


def _below(node: ast.AST, place: _Place) -> Iterator[_Site]:
    """Yield the changes of all expressions below a node, in the order of the source."""
    for field, index, child in _children(node):
        here = _within(place, child)
        changed = list(_replacements(child))
        if field == "test" and not isinstance(child, (ast.Compare, ast.UnaryOp, ast.BoolOp)):
            changed.append(ast.UnaryOp(ast.Not(), deepcopy(child)))
        for replacement in changed:
            yield _Site(here, child, replacement, _replacer(node, field, index))
        if isinstance(child, ast.FunctionDef):
            yield from _below(child.args, here)  # default values, which the definition computes
            here = replace(here, inside=True)
        yield from _below(child, here)


def _within(place: _Place, node: ast.AST) -> _Place:
    """Return the place of a node that lies in another place."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        place = replace(place, scope=f"{place.scope}.{node.name}".lstrip("."))
    if isinstance(node, ast.stmt):
        body = getattr(node, "body", None)
        last = body[0].lineno - 1 if body else node.end_lineno or node.lineno
        return replace(place, lines=(node.lineno, max(node.lineno, last)))
    return place


def _children(node: ast.AST) -> Iterator[tuple[str, int | None, ast.AST]]:
    """Yield field, index in the field and child, without annotations, decorators, messages and checks of types."""
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "type_comment", "op", "ops", "ctx"):
            continue
        if field == "args" and isinstance(node, ast.FunctionDef):
            continue  # see `_below`
        if isinstance(node, ast.keyword) and node.arg == "strict":
            continue  # a check, like an assertion
        for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(child, ast.AST) and not isinstance(child, SKIPPED):
                yield field, index, child


def _replacer(parent: ast.AST, field: str, index: int | None) -> Callable[[ast.AST], None]:
    def put(replacement: ast.AST) -> None:
        if index is None:
            setattr(parent, field, replacement)
        else:
            getattr(parent, field)[index] = replacement

    return put


def _replacements(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the changed forms of one node."""
    match node:
        case ast.Compare(ops=ops):
            for index, op in enumerate(ops):
                changed = deepcopy(node)
                changed.ops[index] = COMPARISONS[type(op)]()
                yield changed
        case ast.BinOp(op=op) | ast.AugAssign(op=op) if type(op) in ARITHMETIC and not _is_text(node):
            changed = deepcopy(node)
            changed.op = ARITHMETIC[type(op)]()
            yield changed
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield ast.Constant(value + 1)
        case ast.Constant(value=float(value)):
            yield ast.Constant(1.8 * value if value else 1.0)
        case ast.BoolOp(op=op, values=values):
            yield ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), deepcopy(values))
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.Invert(), operand=operand):
            yield deepcopy(operand)
        case ast.Return(value=value) if value is not None and not _is_none(value):
            yield ast.Return(ast.Constant(None))
        case ast.Call(func=ast.Name(id=name)) if name in NAMES:
            changed = deepcopy(node)
            changed.func = ast.Name(NAMES[name], ast.Load())
            yield changed
        case ast.Call(func=ast.Attribute(attr=name)) if name in NAMES:
            changed = deepcopy(node)
            changed.func.attr = NAMES[name]
            yield changed


def _is_text(node: ast.AST) -> bool:
    """Return whether an operation joins or formats text."""
    return any(
        isinstance(each, ast.JoinedStr) or (isinstance(each, ast.Constant) and isinstance(each.value, str))
        for each in ast.walk(node)
    )


def _is_none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None

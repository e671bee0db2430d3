"""Small changes of a source file, each of which some test should notice.

Left alone are docstrings and other texts, annotations, decorators, asserts (they only narrow types), the words of
errors, `strict=` of zip, the axes of sums and means, which hardly ever fit another way, and `device=`, which nothing
but an accelerator can tell.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass

_COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
_OPPOSITES = (("min", "max"), ("minimum", "maximum"), ("argmin", "argmax"), ("amin", "amax"), ("any", "all"))
_NAMES = {a: b for pair in (*_OPPOSITES, ("sum", "mean"), ("floor", "ceil")) for a, b in (pair, pair[::-1])}
_LEFT_ALONE = ("axis", "dim", "keepdims", "keepdim", "strict", "device")
_EITHER_WAY = ("min", "max", "minimum", "maximum")
_NEEDS_BRACKETS = (ast.BinOp, ast.UnaryOp, ast.Compare, ast.BoolOp, ast.IfExp, ast.Attribute, ast.Starred)


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change: which text of the source becomes which."""

    function: str
    """Where it is; empty outside of functions and classes."""
    line: int
    start: int
    """First and behind the last byte that changes."""
    stop: int
    text: str
    before: str
    """The changed lines, before and after, with single spaces: these name the mutant wherever the lines move."""
    after: str

    def applied(self, source: str) -> str:
        """The source with the change."""
        plain = source.encode()
        return (plain[: self.start] + self.text.encode() + plain[self.stop :]).decode()


def mutants(source: str) -> list[Mutant]:
    """All changes of a source that can be compiled, in the order of its lines."""
    lines = source.encode().splitlines(keepends=True)
    starts = [sum(map(len, lines[:i])) for i in range(len(lines))]
    found: dict[tuple[int, int, str], Mutant] = {}
    for node, parent, function in _nodes(ast.parse(source)):
        start = starts[node.lineno - 1] + node.col_offset
        stop = starts[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)
        for changed in _changes(node, parent):
            text = changed if isinstance(changed, str) else _written(changed, node, parent)
            mutant = _mutant(source, function, node, start, stop, text)
            if mutant is not None and mutant.before != mutant.after:
                found.setdefault((start, stop, text), mutant)
    return sorted(found.values(), key=lambda mutant: (mutant.start, mutant.stop, mutant.text))


def _mutant(source: str, function: str, node: ast.expr | ast.stmt, start: int, stop: int, text: str) -> Mutant | None:
    plain = source.encode()
    first, last = plain.rfind(b"\n", 0, start) + 1, plain.find(b"\n", stop)
    before = plain[first:last].decode()
    after = (plain[first:start] + text.encode() + plain[stop:last]).decode()
    mutant = Mutant(function, node.lineno, start, stop, text, " ".join(before.split()), " ".join(after.split()))
    try:
        compile(mutant.applied(source), "mutant", "exec")
    except SyntaxError:
        return None
    return mutant


def _written(changed: ast.AST, node: ast.AST, parent: ast.AST) -> str:
    text = ast.unparse(ast.fix_missing_locations(changed))
    called = isinstance(parent, ast.Call) and parent.func is node
    indexed = isinstance(parent, ast.Subscript) and parent.value is node
    inside = isinstance(parent, _NEEDS_BRACKETS) or called or indexed
    return f"({text})" if inside and isinstance(changed, _NEEDS_BRACKETS) else text


def _nodes(tree: ast.Module) -> Iterator[tuple[ast.expr | ast.stmt, ast.AST, str]]:
    """The nodes that may change, with their parents and the names of the functions that they are in."""

    def walk(
        node: ast.AST, parent: ast.AST, path: tuple[str, ...]
    ) -> Iterator[tuple[ast.expr | ast.stmt, ast.AST, str]]:
        if isinstance(node, ast.JoinedStr | ast.Assert | ast.Import | ast.ImportFrom) or _is_text(node):
            return
        if isinstance(node, ast.expr | ast.stmt):
            yield node, parent, ".".join(path)
        if isinstance(node, ast.Raise):
            return
        inner = (*path, node.name) if isinstance(node, ast.FunctionDef | ast.ClassDef) else path
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list", "bases"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST) and not (isinstance(child, ast.keyword) and child.arg in _LEFT_ALONE):
                    yield from walk(child, node, inner)

    return walk(tree, tree, ())


def _is_text(node: ast.AST) -> bool:
    value = node.value if isinstance(node, ast.Expr) else node
    return isinstance(value, ast.Constant) and (isinstance(value.value, str) or value.value is ...)


def _changes(node: ast.AST, parent: ast.AST) -> Iterator[ast.AST | str]:
    plain = isinstance(node, ast.Name | ast.Attribute | ast.Call | ast.Subscript)
    if plain and (
        isinstance(parent, ast.If | ast.While) or (isinstance(parent, ast.comprehension) and node in parent.ifs)
    ):
        yield ast.UnaryOp(ast.Not(), node)
    match node:
        case ast.Compare():
            yield from _compared(node)
        case ast.BinOp() | ast.AugAssign():
            if type(node.op) in _OPERATORS:
                yield _with(node, op=_OPERATORS[type(node.op)]())
            if isinstance(node, ast.AugAssign):
                yield "pass"
        case ast.BoolOp():
            yield _with(node, op=ast.And() if isinstance(node.op, ast.Or) else ast.Or())
            yield from node.values
        case ast.UnaryOp():
            yield node.operand
        case ast.Constant():
            yield from (ast.Constant(value) for value in _constants(node.value))
        case ast.Call():
            yield from _called(node)
        case ast.Attribute() | ast.Name():
            name = node.attr if isinstance(node, ast.Attribute) else node.id
            if isinstance(node.ctx, ast.Load) and name in _NAMES:
                yield _with(node, **{"attr" if isinstance(node, ast.Attribute) else "id": _NAMES[name]})
        case ast.Slice():
            yield from (_with(node, **{part: None}) for part in ("lower", "upper", "step") if getattr(node, part))
        case ast.IfExp():
            yield _with(node, body=node.orelse, orelse=node.body)
        case ast.Return():
            if isinstance(node.value, ast.Tuple) and len(node.value.elts) > 1:
                first, second, *rest = node.value.elts
                yield _with(node, value=_with(node.value, elts=[second, first, *rest]))
        case ast.Expr() | ast.Raise() | ast.Continue() | ast.Break():
            yield "pass"
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield "pass"
        case _:
            return


def _with(node: ast.AST, **changes: object) -> ast.AST:
    changed = copy.deepcopy(node)
    for name, value in changes.items():
        setattr(changed, name, value)
    return changed


def _compared(node: ast.Compare) -> Iterator[ast.AST]:
    for i, operator in enumerate(node.ops):
        for other in _COMPARISONS[type(operator)]:
            yield _with(node, ops=[*node.ops[:i], other(), *node.ops[i + 1 :]])


def _constants(value: object) -> tuple[object, ...]:
    match value:
        case bool():
            return (not value,)
        case int():
            return value + 1, value - 1
        case float():
            return (1.0,) if value == 0 else (-value, 2 * value)
        case _:
            return ()


def _called(node: ast.Call) -> Iterator[ast.AST]:
    if len(node.args) > 1 and not any(isinstance(each, ast.Starred) for each in node.args[:2]):
        first, second, *rest = node.args
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if ast.dump(first) != ast.dump(second) and name not in _EITHER_WAY:
            yield _with(node, args=[second, first, *rest])
    for i, keyword in enumerate(node.keywords):
        if keyword.arg is not None and keyword.arg not in _LEFT_ALONE:
            yield _with(node, keywords=[*node.keywords[:i], *node.keywords[i + 1 :]])

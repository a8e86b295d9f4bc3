"""What of a module's source an outline keeps: who binds each name, signatures, docstrings, and no bodies."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

from taigi_lightning.cli.commands import TOOLS

Evaluate = Callable[[ast.expr], Any]

# Functions whose types become options; of others the name is enough.
TYPED = frozenset(
    {"__init__", "__new__", "fit", "validate", "test", "predict", *(name for _, name, _ in TOOLS.values())}
)
# Classes whose body says more than their signatures.
DATA_BASES = frozenset({"Enum", "StrEnum", "IntEnum", "LightningEnum", "NamedTuple", "TypedDict"})


class OutlineCalledError(Exception):
    """Something ran into an outline whose answer only the real code knows."""


def doubt(*_: Any, **__: Any) -> Any:
    """Stands for the body of a function that is only outlined."""
    raise OutlineCalledError


def bindings(file: str) -> dict[str, list[ast.stmt]]:
    """Each top-level name of a source file with the statements that bind it, the likeliest first; `*` has the star
    imports.
    """
    found: dict[str, list[ast.stmt]] = {}
    for node in _statements(ast.parse(Path(file).read_bytes()).body):
        for name in _bound_by(node):
            found.setdefault(name, []).append(node)
    for nodes in found.values():  # `X = None` after a failed import is what nobody wants to know
        nodes.sort(key=lambda node: isinstance(node, ast.Assign | ast.AnnAssign))
    return found


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        if isinstance(node, ast.If) and _last_name(node.test) == "TYPE_CHECKING":  # what runs counts more
            yield from _statements([*node.orelse, *node.body])
        elif isinstance(node, ast.If):
            yield from _statements([*node.body, *node.orelse])
        elif isinstance(node, ast.Try):
            handlers = [one for handler in node.handlers for one in handler.body]
            yield from _statements([*node.body, *node.orelse, *handlers])
        elif isinstance(node, ast.With):
            yield from _statements(node.body)
        else:
            yield node


def _bound_by(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return [node.name]
    if isinstance(node, ast.Import):
        return [alias.asname or alias.name.partition(".")[0] for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [alias.asname or alias.name for alias in node.names]
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    if isinstance(node, ast.AnnAssign) and node.value and isinstance(node.target, ast.Name):
        return [node.target.id]
    return []


def names_in(node: ast.AST) -> set[str]:
    """Every name that evaluating the node may look up."""
    return {one.id for one in ast.walk(node) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Load)}


def class_outline(node: ast.ClassDef, evaluate: Evaluate) -> tuple[ast.stmt, dict[str, Any]]:
    """A class statement without bodies, and the values of the names that it now refers to.

    Args:
        node: the class as written.
        evaluate: gives the value of an expression of its module, or raises.
    """
    values: dict[str, Any] = {}
    bases = []
    for base in node.bases:
        name = _value(base, evaluate, values, default=None)
        if name:
            bases.append(name)
    decorators = [one for one in node.decorator_list if _last_name(one) == "dataclass"]
    data = decorators or any(_last_name(base) in DATA_BASES for base in node.bases)
    body: list[ast.stmt] = _docstring(node)
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            typed = statement.name in TYPED
            make = function_outline(statement, evaluate, values)[0] if typed else _method(statement, values)
            body.append(make)
        elif data and isinstance(statement, ast.AnnAssign | ast.Assign):
            body.append(_field(statement, evaluate, values))
    for decorator in decorators:
        _gather(decorator, evaluate, values)
    made = ast.ClassDef(node.name, bases, [], body or [ast.Pass()], decorators)
    made.type_params = []  # type: ignore[attr-defined]
    return ast.fix_missing_locations(ast.copy_location(made, node)), values


def function_outline(
    node: ast.FunctionDef | ast.AsyncFunctionDef, evaluate: Evaluate, values: dict[str, Any] | None = None
) -> tuple[ast.stmt, dict[str, Any]]:
    """A function without its body, and the values of the names that its signature now refers to."""
    inside = values is not None
    values = {} if values is None else values
    old = node.args

    def argument(one: ast.arg) -> ast.arg:
        kind = one.annotation and _value(unquoted(one.annotation), evaluate, values, default=Any)
        return ast.arg(one.arg, kind or None)

    def default(one: ast.expr | None) -> ast.expr | None:
        return one and fixed(one)

    def fixed(one: ast.expr) -> ast.expr:
        return _value(one, evaluate, values, default=None) or ast.Constant(None)

    arguments = ast.arguments(
        posonlyargs=[argument(one) for one in old.posonlyargs],
        args=[argument(one) for one in old.args],
        vararg=old.vararg and argument(old.vararg),
        kwonlyargs=[argument(one) for one in old.kwonlyargs],
        kw_defaults=[default(one) for one in old.kw_defaults],
        kwarg=old.kwarg and argument(old.kwarg),
        defaults=[fixed(one) for one in old.defaults],
    )
    returns = node.returns and _value(unquoted(node.returns), evaluate, values, default=Any)
    values["_doubt"] = doubt
    call = ast.Expr(ast.Call(ast.Name("_doubt", ast.Load()), [], []))
    made = ast.FunctionDef(node.name, arguments, [*_docstring(node), call], [], returns or None)
    made.type_params = []  # type: ignore[attr-defined]
    ast.copy_location(made, node)
    return made if inside else ast.fix_missing_locations(made), values


def _method(node: ast.FunctionDef | ast.AsyncFunctionDef, values: dict[str, Any]) -> ast.stmt:
    """`name = a function`, of which no one will ask more than whether it is there and abstract."""
    kinds = {_last_name(decorator) for decorator in node.decorator_list}
    function: Any = FunctionType(doubt.__code__, doubt.__globals__, node.name)
    if "abstractmethod" in kinds:
        function.__isabstractmethod__ = True
    for kind, wrap in (("property", property), ("staticmethod", staticmethod), ("classmethod", classmethod)):
        if kind in kinds:
            function = wrap(function)
    name = f"_value{len(values)}"
    values[name] = function
    return ast.Assign([ast.Name(node.name, ast.Store())], ast.Name(name, ast.Load()))


class _Unquote(ast.NodeTransformer):
    """`"Tensor"` in an annotation means Tensor, but in `Literal` it means itself."""

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        return node if _last_name(node.value) == "Literal" else self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        return ast.parse(node.value, mode="eval").body if isinstance(node.value, str) else node


def unquoted(annotation: ast.expr) -> ast.expr:
    """An annotation whose quoted parts are expressions."""
    made: ast.expr = _Unquote().visit(annotation)
    return ast.fix_missing_locations(made)


def _value(
    expression: ast.expr, evaluate: Evaluate, values: dict[str, Any], *, default: Any
) -> ast.expr | None:
    """A new name for the expression's value, put into `values`; None where it has none and there is no default."""
    if isinstance(expression, ast.Constant):
        return expression
    try:
        value = evaluate(expression)
    except Exception:  # whatever an expression of another package may raise over outlines
        if default is None:
            return None
        value = default
    name = f"_value{len(values)}"
    values[name] = value
    return ast.Name(name, ast.Load())


def _gather(expression: ast.expr, evaluate: Evaluate, values: dict[str, Any]) -> None:
    for name in names_in(expression):
        values[name] = evaluate(ast.fix_missing_locations(ast.Name(name, ast.Load(), lineno=1, col_offset=0)))


def _field(node: ast.Assign | ast.AnnAssign, evaluate: Evaluate, values: dict[str, Any]) -> ast.stmt:
    value = node.value and _value(node.value, evaluate, values, default=None)
    if isinstance(node, ast.Assign):
        return ast.Assign(node.targets, value or ast.Constant(None))
    annotation = _value(unquoted(node.annotation), evaluate, values, default=Any)
    assert annotation
    return ast.AnnAssign(node.target, annotation, value, node.simple)


def _docstring(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.stmt]:
    return [node.body[0]] if ast.get_docstring(node, clean=False) is not None else []


def _last_name(node: ast.expr) -> str:
    if isinstance(node, ast.Call):
        node = node.func
    if isinstance(node, ast.Subscript):
        node = node.value
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""

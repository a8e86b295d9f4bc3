"""Packages read instead of run: their classes with signatures and docstrings, known from the source alone.

Importing PyTorch, Lightning and Transformers takes many seconds; what a command line may hold is known from the
signatures of their classes. Within `outlined()` every import outside `REAL` gives an outline: a module whose
source is parsed, not executed, and whose names come into being when they are asked for. The parser that is built
over outlines is the very one that is built over the classes, so there is no second list of options to go stale.
"""

from __future__ import annotations
import __future__

import ast
import gc
import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

from taigi_lightning.cli import outline_source
from taigi_lightning.cli.commands import TOOLS
from taigi_lightning.cli.outline_source import TYPED, class_outline, function_outline, names_in

# Run as ever: the standard library, what parses, and the folders of this package that need none of the others.
REAL = frozenset(
    {
        *sys.stdlib_module_names,
        # jsonargparse and what it uses where it is installed
        "annotated_types",
        "argcomplete",
        "attr",
        "attrs",
        "docstring_parser",
        "fsspec",
        "jsonargparse",
        "lightning_utilities",
        "numpy",
        "omegaconf",
        "packaging",
        "pyarrow",
        "pydantic",
        "pydantic_core",
        "ruamel",
        "sentencepiece",
        "shtab",
        "tokenizers",
        "typeshed_client",
        "typing_extensions",
        "typing_inspection",
        "yaml",
        "taigi_lightning.atomic_write",
        "taigi_lightning.cli",
        "taigi_lightning.errors",
        "taigi_lightning.moved_modules",
        "taigi_lightning.planning",
        "taigi_lightning.signals",
        "taigi_lightning.windows",
    }
)
# Run over outlines: they build the parser.
BUILDERS = frozenset(
    {"lightning.pytorch.cli", "taigi_lightning.cli.lightning_cli", "taigi_lightning.cli.run_checks"}
)
# Whose functions a command line runs once it is parsed: over outlines they must not.
_TOOL_MODULES = frozenset(module for module, _, _ in TOOLS.values())


class Outline(ModuleType):
    """A module whose names are made from its source when they are asked for."""

    def __init__(self, name: str, file: str | None) -> None:
        super().__init__(name)
        self.__dict__["_file"] = file
        self.__dict__["_bound"] = None
        self.__dict__["_making"] = set()
        self.__dict__["_missing"] = set()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in self.bound():
            raise AttributeError(name)
        if name in self.__dict__["_making"]:  # a class that names itself in an annotation
            return Any
        if name in self.__dict__["_missing"]:
            raise AttributeError(name)
        self.__dict__["_making"].add(name)
        try:
            found = self._make(name)
        except AttributeError:
            self.__dict__["_missing"].add(name)
            raise
        finally:
            self.__dict__["_making"].discard(name)
        self.__dict__[name] = found
        return found

    def _make(self, name: str) -> Any:
        for node in self.bound().get(name, ()):
            try:
                return self._bind(name, node)
            except (ImportError, AttributeError, TypeError, NameError, ValueError):
                continue
        if hasattr(self, "__path__") and not name[0].isupper():
            try:
                return importlib.import_module(f"{self.__name__}.{name}")
            except ModuleNotFoundError:
                pass
        for node in self.bound().get("*", ()):
            try:
                return getattr(self._module_of(node), name)
            except (ImportError, AttributeError):
                continue
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")

    def __dir__(self) -> list[str]:
        return [*self.bound(), *super().__dir__()]

    def bound(self) -> dict[str, list[ast.stmt]]:
        """The statements that bind each name, those first that count most; an extension module binds none."""
        if self.__dict__["_bound"] is None:
            file = self.__dict__["_file"]
            self.__dict__["_bound"] = outline_source.bindings(file) if file else {}
        bound: dict[str, list[ast.stmt]] = self.__dict__["_bound"]
        return bound

    def is_dynamic(self) -> bool:
        """Whether names may come into being in ways that the source does not show."""
        return self.__dict__["_file"] is None or "__getattr__" in self.bound()

    def _bind(self, name: str, node: ast.stmt) -> Any:
        if isinstance(node, ast.ClassDef):
            return self._execute(class_outline(node, self._evaluate), name)
        if isinstance(node, ast.FunctionDef):
            if self.__name__.startswith("taigi_lightning.") and name not in TYPED:
                return self._late(node)
            return self._execute(function_outline(node, self._evaluate), name)
        if isinstance(node, ast.Import):
            alias = next(a for a in node.names if (a.asname or a.name.partition(".")[0]) == name)
            module = importlib.import_module(alias.name)
            return module if alias.asname else sys.modules[name]
        if isinstance(node, ast.ImportFrom):
            return self._import_from(name, node)
        assert isinstance(node, ast.Assign | ast.AnnAssign)
        return self._constant(node)

    def _constant(self, node: ast.Assign | ast.AnnAssign) -> Any:
        assert node.value
        try:
            return self._evaluate(node.value)
        except Exception:  # whatever its expression may raise over outlines; as a type it accepts all
            return Any

    def _import_from(self, name: str, node: ast.ImportFrom) -> Any:
        alias = next(a for a in node.names if (a.asname or a.name) == name)
        module = self._module_of(node)
        try:
            return getattr(module, alias.name)
        except AttributeError:
            return importlib.import_module(f"{module.__name__}.{alias.name}")

    def _late(self, node: ast.FunctionDef) -> Callable[..., Any]:
        """A function of this package as it is, with outlines around it; its names are looked up at its first call."""

        def call(*arguments: Any, **options: Any) -> Any:
            bare = ast.Module([node], [])
            code = compile(
                bare, self._filename(), "exec", flags=__future__.annotations.compiler_flag, dont_inherit=True
            )
            scope = self._scope(node)
            exec(code, scope)
            return scope[node.name](*arguments, **options)

        return call

    def _module_of(self, node: ast.stmt) -> ModuleType:
        assert isinstance(node, ast.ImportFrom)
        package = self.__spec__.parent if self.__spec__ else ""
        return importlib.import_module("." * node.level + (node.module or ""), package)

    def _evaluate(self, expression: ast.expr) -> Any:
        code = compile(ast.Expression(expression), self._filename(), "eval", dont_inherit=True)
        return eval(code, self._scope(expression))

    def _execute(self, made: tuple[ast.stmt, dict[str, Any]], name: str) -> Any:
        node, values = made
        code = compile(ast.Module([node], []), self._filename(), "exec", dont_inherit=True)
        scope = self._scope(node) | values
        exec(code, scope)
        return scope[name]

    def _scope(self, node: ast.AST) -> dict[str, Any]:
        bound = self.bound()
        known = {name for name in names_in(node) if name in bound or ("*" in bound and hasattr(self, name))}
        return {"__name__": self.__name__, **{name: getattr(self, name) for name in known}}

    def _filename(self) -> str:
        return self.__dict__["_file"] or "<outline>"


class _Finder:
    """Gives outlines for whatever is not to be run."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The specification of an outline, or None for what is imported as ever."""
        if is_real(name):
            return None
        found = PathFinder.find_spec(name, path)
        if found is None or found.loader is None or name in BUILDERS:
            return found
        spec = ModuleSpec(name, self, origin=found.origin)  # type: ignore[arg-type]
        spec.submodule_search_locations = found.submodule_search_locations
        spec.has_location = True
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """An outline that has not been read yet."""
        return Outline(spec.name, spec.origin if spec.origin and spec.origin.endswith(".py") else None)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing: that is the point."""


def is_real(name: str) -> bool:
    """Whether a module is run even while outlines are given.

    >>> is_real("json.decoder"), is_real("torch.optim"), is_real("taigi_lightning.model.merge")
    (True, False, False)
    """
    top, _, rest = name.partition(".")
    if top == "taigi_lightning":
        folder = ".".join(name.split(".")[:2])
        return not rest or (folder in REAL and name not in BUILDERS and name not in _TOOL_MODULES)
    return top in REAL or top.startswith("_sysconfigdata")  # the standard library's, named after the platform


@contextmanager
def outlined() -> Iterator[None]:
    """Within, imports give outlines; afterwards the real packages, as if nothing had been."""
    finder = _Finder()
    before = set(sys.modules)
    sys.meta_path.insert(0, finder)
    collecting = gc.isenabled()
    gc.disable()  # syntax trees are many small objects, none of them garbage yet
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name not in before and not is_real(name)]:
            module = sys.modules.pop(name)
            parent, _, last = name.rpartition(".")
            if parent in sys.modules and vars(sys.modules[parent]).get(last) is module:
                vars(sys.modules[parent]).pop(last)
        if collecting:
            gc.enable()

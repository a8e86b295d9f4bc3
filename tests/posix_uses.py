"""Which tests use what only POSIX has: themselves, by a helper, a fixture or the source of a script that they run.

Nothing is imported: a module that cannot be imported on Windows would be found too late, by its readers there.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.windows_like.sitecustomize import NO_MODULE, NOT_IN

MODULES = NO_MODULE - {"posix"}  # which is the marker's name as well
# Methods and arguments of the standard library that another system lacks, or takes for something else.
METHODS = {
    "symlink_to",
    "hardlink_to",
    "send_signal",
    "mkfifo",
    "preexec_fn",
    "start_new_session",
    "process_group",
    "init_process_group",
}
CALLS = {"os.kill", "os.symlink", "os.link", "os.chmod", "socket.AF_UNIX", "socket.SOCK_SEQPACKET"} | {
    f"{module}.{name}" for module in ("os", "signal") for name in NOT_IN[module]
}
IN_TEXTS = re.compile(
    r"/proc/|/usr/bin|/tmp/|^torch\.distributed\.run$|\bimport (?:\w+, )*(?:{})\b|\b(?:{})\b".format(
        "|".join(sorted(MODULES)), "|".join(re.escape(call) for call in sorted(CALLS))
    )
)
Name = tuple[str, str]  # a module of the tests, and what it defines


@dataclass
class Module:
    """One file: what it defines, where its other names come from, and what runs as it is imported."""

    definitions: dict[str, ast.AST] = field(default_factory=dict)
    imported: dict[str, Name] = field(default_factory=dict)
    at_import: list[ast.AST] = field(default_factory=list)
    marked: bool = False


def read_tests(folder: Path, package: str) -> dict[str, Module]:
    """Every module below a folder."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        name = ".".join((package, *path.relative_to(folder).with_suffix("").parts)).removesuffix(".__init__")
        found[name] = read_module(ast.parse(path.read_text(encoding="utf-8")))
    return found


def read_module(tree: ast.Module) -> Module:
    """Sort the statements of one file."""
    module = Module()
    for statement in tree.body:
        if isinstance(statement, ast.ImportFrom) and not statement.level:
            for alias in statement.names:
                module.imported[alias.asname or alias.name] = (str(statement.module), alias.name)
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            module.definitions[statement.name] = statement
            module.at_import += statement.decorator_list
            if isinstance(statement, ast.FunctionDef):
                module.at_import += [d for d in (*statement.args.defaults, *statement.args.kw_defaults) if d]
            continue
        module.at_import.append(statement)
        if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            for name in (part for target in targets for part in ast.walk(target)):
                if isinstance(name, ast.Name):
                    module.definitions[name.id] = statement.value
                    module.marked |= name.id == "pytestmark" and is_marked(statement.value)
    return module


def is_marked(node: ast.AST) -> bool:
    """Whether it holds the marker `posix`."""
    return any(isinstance(part, ast.Attribute) and part.attr == "posix" for part in ast.walk(node))


def uses(node: ast.AST, texts: bool = True) -> Iterator[str]:
    """What a piece of source takes from POSIX; with `texts`, the sources that its strings hold as well."""
    for part in ast.walk(node):
        if isinstance(part, ast.Import) and (wrong := MODULES & {alias.name for alias in part.names}):
            yield from (f"import {name}" for name in sorted(wrong))
        elif isinstance(part, ast.ImportFrom) and part.module in MODULES:
            yield f"from {part.module}"
        elif isinstance(part, ast.Attribute):
            if isinstance(part.value, ast.Name) and (call := f"{part.value.id}.{part.attr}") in CALLS:
                yield call
            elif part.attr in METHODS and texts:
                yield part.attr
        elif isinstance(part, ast.keyword) and part.arg in METHODS:
            yield part.arg
        elif isinstance(part, ast.Constant) and isinstance(part.value, str) and texts:
            yield from (repr(found[0]) for found in IN_TEXTS.finditer(part.value))


def follow(home: str, node: ast.AST, module: Module) -> set[Name]:
    """The definitions of the tests that a definition names; a fixture may stand in a conftest of a folder above."""
    parts = list(ast.walk(node))
    names = [part for part in parts if isinstance(part, ast.Name)]
    local = {part.id for part in names if isinstance(part.ctx, ast.Store)}
    named = {part.id for part in names} - local | {part.arg for part in parts if isinstance(part, ast.arg)}
    parents = home.split(".")[:-1]
    homes = [home, *(".".join((*parents[: n + 1], "conftest")) for n in range(len(parents)))]
    return {(place, name) for place in homes for name in named} | {
        (".".join(module.imported.get(part.value.id, ())), part.attr)
        for part in parts
        if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name)
    }


def all_uses(modules: dict[str, Module], excused: Iterable[str]) -> dict[Name, set[str]]:
    """What each definition takes from POSIX, itself or by anything of the tests that it names, fixtures among them."""
    own: dict[Name, set[str]] = {}
    named: dict[Name, set[Name]] = {}
    for home, module in modules.items():
        for name, node in module.definitions.items():
            if f"{home}.{name}" not in excused:
                own[home, name] = {f"{use} in {home}.{name}" for use in uses(node)}
                named[home, name] = follow(home, node, module)
        named |= {(home, name): {origin} for name, origin in module.imported.items()}

    def reached(start: Name) -> set[str]:
        found: set[str] = set()
        seen, left = {start}, [start]
        while left:
            one = left.pop()
            found |= own.get(one, set())
            new = {other for other in named.get(one, ()) if other in named} - seen
            seen |= new
            left += new
        return found

    return {name: reached(name) for name in own}

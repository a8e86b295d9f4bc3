"""Where a setting was written: the YAML files of a command line, their lines, and its flags."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from taigi_lightning.cli.did_you_mean import did_you_mean, nearest
from taigi_lightning.windows import config_text

TEXT = "tag:yaml.org,2002:str"
KINDS = ("null", "bool", "int", "float", "str", "map", "seq", "timestamp", "binary", "merge", "value", "set")
TAGS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in KINDS)
Place = tuple[str, str, int]  # dotted key, file, line from 1


def config_files(arguments: Sequence[str]) -> list[str]:
    """The files named after -c or --config, in order.

    >>> config_files(["fit", "--config", "a.yaml", "--config=b.yaml", "-c", "c.yaml"])
    ['a.yaml', 'b.yaml', 'c.yaml']
    """
    pairs = zip(arguments, [*arguments, ""][1:], strict=True)
    found = [
        word.partition("=")[2] if "=" in word else following
        for word, following in pairs
        if word.partition("=")[0] in ("-c", "--config")
    ]
    return [name for name in found if name]


def check_config_files(arguments: Sequence[str]) -> str | None:
    """What is wrong with the files after --config, if one is missing or is not YAML."""
    problems = (_absent(name) or _not_settings(name) for name in config_files(arguments))
    return next((problem for problem in problems if problem), None)


def check_values(arguments: Sequence[str]) -> str | None:
    """What is wrong with a value in braces, if it names a key twice: YAML's parser would take the last one."""
    for word in arguments:
        value = word if word.startswith("{") else word.partition("=")[2]
        if not value.startswith("{"):
            continue
        try:
            root = yaml.compose(value, Loader=yaml.SafeLoader)
        except (RecursionError, yaml.YAMLError):
            continue  # a text of its own, or what the parser refuses
        keys = [key.value for key, _ in root.value] if isinstance(root, yaml.MappingNode) else []
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            return f"{twice} is there twice in {value}. Keep one of them."
    return None


def _absent(name: str) -> str | None:
    path = Path(name)
    if path.is_file():
        return None
    folder = path if path.is_dir() else path.parent if path.parent.is_dir() else Path()
    there = sorted(str(file) for file in folder.glob("*.yaml"))
    near = nearest(name, there) or there[:4]
    found = f"{name} is a folder; wanted a file." if path.is_dir() else f"There is no file {name}."
    return f"{found}{did_you_mean(near)}"


def _not_settings(name: str) -> str | None:
    try:
        root = yaml.compose(config_text(Path(name)), Loader=yaml.SafeLoader)
    except (OSError, RecursionError, UnicodeDecodeError, yaml.YAMLError) as error:
        return f"{name}{_unreadable(error)}"
    if isinstance(root, yaml.MappingNode):
        return next((f"{name}, line {line}: {fault}" for line, fault in _faults(root)), None)
    found = "is empty" if root is None else "holds no settings"
    return f"{name} {found}; wanted lines like `trainer:` with settings indented below."


def _unreadable(error: Exception) -> str:
    """What follows a file's name where no YAML could be read from it."""
    if isinstance(error, OSError):
        return f" cannot be read: {error.strerror}. Give a file that you may read."
    if isinstance(error, RecursionError):
        return " is nested too deeply to be read; a stage's config is a few levels deep."
    if isinstance(error, UnicodeDecodeError):
        return f" is not UTF-8 (byte {error.start}). Save it as UTF-8."
    if isinstance(error, yaml.MarkedYAMLError):
        line = (error.problem_mark or error.context_mark).line + 1  # type: ignore[union-attr]
        return f", line {line} is not YAML: {error.problem}. Check the colons, spaces and brackets."
    return f" is not YAML: {' '.join(str(error).split())}."


def _faults(root: yaml.MappingNode) -> Iterator[tuple[int, str]]:
    """What a YAML parser lets through and no config means: lines, and what is wrong there."""
    waiting: list[yaml.Node] = [root]
    known: set[int] = set()  # an alias leads to a node that was looked at
    while waiting:
        node = waiting.pop()
        if id(node) in known:
            continue
        known.add(id(node))
        if node.tag not in TAGS:
            yield node.start_mark.line + 1, f"the tag {node.tag!r} is not read here. Write a plain value."
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
        if isinstance(node, yaml.MappingNode):
            yield from _faulty_keys(node, top=node is root)
            waiting += [value for _, value in node.value]


def _faulty_keys(node: yaml.MappingNode, *, top: bool) -> Iterator[tuple[int, str]]:
    lines: dict[tuple[str, str], int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode) or (top and key.tag != TEXT):
            shown = f" {key.value!r}" if isinstance(key, yaml.ScalarNode) else ""
            yield line, f"the key{shown} is no name of a setting. Correct it, or leave it out."
            continue
        if first := lines.get((key.tag, key.value)):
            yield line, f"{key.value} is there twice, on line {first} already. Keep one of them."
        lines[key.tag, key.value] = line


def written_keys(file: str) -> Iterator[Place]:
    """Every key of a YAML file with its dotted path and its line."""
    root = yaml.compose(config_text(Path(file)), Loader=yaml.SafeLoader)

    def walk(node: yaml.Node | None, prefix: str) -> Iterator[Place]:
        if isinstance(node, yaml.SequenceNode):
            for item in node.value:
                yield from walk(item, prefix)
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                path = f"{prefix}{key.value}"
                yield path, file, key.start_mark.line + 1
                yield from walk(value, f"{path}.")

    yield from walk(root, "")


def where(key: str, arguments: Sequence[str], *, value: str | None = None) -> str:
    """` (configs/cpt.yaml, line 12)`, ` (--model.lora.rr)` or nothing; later ones win, as in the parser.

    Args:
        key: dotted; `init_args`, which flags may leave out, does not count. A class is found at its `class_path` too.
        arguments: the command line without the program's name.
        value: what was given; a flag for something inside `key` that gave it is the place.
    """
    for word, following in reversed([*itertools.pairwise([*arguments, ""])]):
        name, joined, given = word.partition("=")
        if not word.startswith("--"):
            continue
        flag = name.lstrip("-")
        inside = flag.startswith(f"{key}.") and value == (given if joined else following)
        if _is(flag, key) or _is(flag, f"{key}.class_path") or inside:
            return f" (--{flag})"
    for file in reversed(config_files(arguments)):
        found = [*written_keys(file)]
        places = [one for one in found if _is(one[0], f"{key}.class_path")] or [
            one for one in found if _is(one[0], key)
        ]
        if places:
            path, name, line = places[-1]
            inside_of = f", in {path.rpartition('.')[0]}" if path.removesuffix(".class_path") != key else ""
            return f" ({name}, line {line}{inside_of})"
    return ""


def _is(written: str, key: str) -> bool:
    written, key = written.replace("init_args.", ""), key.replace("init_args.", "")
    return written == key or written.endswith(f".{key}")

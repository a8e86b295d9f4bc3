"""What jsonargparse says of a value it refuses, said as a user would need to hear it."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Collection, Sequence
from typing import Any

from taigi_lightning.cli.class_errors import NOT_THERE, wanted_of, wrong_class
from taigi_lightning.cli.config_locations import where
from taigi_lightning.cli.did_you_mean import did_you_mean, nearest

KEYS = re.compile(r'Parser key "([^"]+)":')
EXPECTED = re.compile(r"Expected an? (typing\.Literal\[.*?\]|<class '[^']+'>)|Not of type (\w+)")
VALUE = re.compile(r"(?:Got|Given) value: (.*)")
RESTRICTED = re.compile(r"Not of type \w+: (\S+) does not conform")
AMBIGUOUS = re.compile(r"Multiple subclasses with name (\S+)\. .*?: (.+)\.")
# A value inside a mapping or a list.
ITEM = re.compile(
    r"Expected a <class '(\w+)'>\. Got value: ([^\n]+)\n.*?Given value: ((?:\{|\[)[^\n]*)", re.DOTALL
)
SUBTYPE = re.compile(r"Subtypes: \[<class '([\w.]+)\.(\w+)'>")
# Kinds of values beside which a class, such as Tensor beside float, is not what a user means.
PLAIN = frozenset({"int", "float", "str"})
EXAMPLES = {"lr": "2.0e-4"}  # where that of the kind is far from what is meant
# In words, and an example where the words need one.
KINDS = {
    "int": ("a whole number", "100"),
    "float": ("a number", "0.5"),
    "bool": ("true or false", "true"),
    "str": ("a text", ""),
    "list": ("a list", "'[a, b]'"),
    "Iterable": ("a list", "'[a, b]'"),
    "dict": ("names with values", "'{a: b}'"),
    "Mapping": ("names with values", "'{a: b}'"),
    "PositiveInt": ("a whole number above 0", ""),
    "NonNegativeInt": ("a whole number, 0 or above", ""),
    "PositiveFloat": ("a number above 0", "10"),
    "NonNegativeFloat": ("a number, 0 or above", "0.5"),
    "ClosedUnitInterval": ("a number from 0 to 1", "0.5"),
    "OpenUnitInterval": ("a share between 0 and 1", "0.05"),
    "MemorySize": ("a size", "16GiB"),
    "LinkSpeed": ("a speed", "12GB/s"),
    "Capability": ("a compute capability", "8.9"),
}


def wrong_value(message: str, arguments: Sequence[str], positionals: Collection[str] = ()) -> str:
    """Name the setting, where it was written, what it is and what was wanted.

    Args:
        message: jsonargparse's own, which begins `Parser key "...":`; an inner key's message lies within.
        arguments: the command line without the program's name.
        positionals: names of what is given by its place alone.
    """
    key = ".".join(dict.fromkeys(KEYS.findall(message)))
    detail = KEYS.split(message)[-1]
    value = _value(detail, key.rpartition(".")[2])
    place = where(key, arguments, value=value)
    if match := AMBIGUOUS.search(detail):
        return f"{key}{place} is {match[1]}, of which there are several. Give one in full: {match[2]}."
    if "Unable to load config" in detail:
        return f"{key}{place} wants a YAML file, or its settings one by one: --{key}.NAME VALUE."
    if settings := _settings_class(detail):
        first = dataclasses.fields(settings)[0].name
        return (
            f"{key} is {value!r}{place}; wanted its settings one by one, for example --{key}.{first} {value}."
        )
    wanted = [one[0] or one[1] for one in EXPECTED.findall(detail)]
    plain = PLAIN & {one.removeprefix("<class '").removesuffix("'>") for one in wanted}
    named = value is not None and "." not in value and any(one.startswith("typing.Literal") for one in wanted)
    of_class = wrong_class(key, detail, arguments) if value is None or not (plain or named) else None
    if sentence := _wrong_item(key, place, detail) or of_class:
        return sentence
    if value is None or not wanted:
        return f"{key}{place}: {' '.join(detail.split())}"
    option = "" if key in positionals else f"--{key} "
    return _not_wanted(key, value, place, wanted, option)


def _value(detail: str, name: str) -> str | None:
    """What was given, out of a message that may show it as one argument of several.

    >>> _value("Given value: NestedArg(key='r', val='-3')", "r"), _value("Given value: {'a': 1, 'r': -3}", "r")
    ('-3', '-3')
    """
    found = VALUE.search(detail)
    if not found:
        restricted = RESTRICTED.search(detail)
        return restricted[1] if restricted else None
    inner = re.search(rf"NestedArg\(key='[^']*', val=(.*)\)|\b{name}['\"]?[=:] ?([^,)}}]+)", found[1])
    return ((inner[1] or inner[2]) if inner else found[1]).strip("'\" .")


def _wrong_item(key: str, place: str, detail: str) -> str | None:
    """Name what was wrong within a mapping or a list, if that is the fault."""
    item = ITEM.search(detail)
    if not item or item[1] not in KINDS:
        return None
    kind, example = KINDS[item[1]]
    instead = item[3].rstrip(")").replace(f"'{item[2]}'", example)
    return f"{key} holds {item[2]!r}{place}, where {kind} is wanted, as in {instead}."


def _not_wanted(key: str, value: str, place: str, kinds: Sequence[str], option: str) -> str:
    choices: list[str] = []
    words: list[str] = []
    example = ""
    for kind in kinds:
        name = kind.removeprefix("<class '").removesuffix("'>").rpartition(".")[2]
        if kind.startswith("typing.Literal"):
            choices += re.findall(r"[\w.+-]+", kind.removeprefix("typing.Literal"))
        elif name in KINDS and KINDS[name][0] not in words:
            words.append(KINDS[name][0])
            example = example or KINDS[name][1]
            if name in ("dict", "Mapping"):
                example = f"'{{name: {value}}}'" if re.fullmatch(r"[\w./+-]+", value) else "'{name: value}'"
        elif name != "NoneType" and name not in KINDS:
            words.append(name)
    if "a number" in words and "a whole number" in words:
        words.remove("a whole number")
        example = KINDS["float"][1]
    example = EXAMPLES.get(key.rpartition(".")[2], example)
    choices = [choice for choice in dict.fromkeys(choices) if not (words and choice.isdigit())]
    if choices:
        words.append(f"one of {', '.join(choices)}" if len(choices) > 1 else choices[0])
    words = words or [wanted_of(key)]
    shown = f", for example {option}{example}" if example and not choices else ""
    return f"{key} is {value!r}{place}; wanted {' or '.join(words)}{shown}.{did_you_mean(nearest(value, choices))}"


def _settings_class(detail: str) -> Any:
    """The dataclass whose settings were wanted where one value was given, if that is the fault."""
    subtype = SUBTYPE.search(detail)
    found = getattr(sys.modules.get(subtype[1]), subtype[2], None) if subtype else None
    return found if NOT_THERE.search(detail) and dataclasses.is_dataclass(found) else None

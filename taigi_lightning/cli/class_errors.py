"""What jsonargparse says of a class that it refuses, said as a user would need to hear it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import import_module

from taigi_lightning.cli.config_locations import where
from taigi_lightning.cli.did_you_mean import did_you_mean, nearest

NOT_THERE = re.compile(r"Expected a dot import path string: ?(\S*)")
NOT_CALLABLE = re.compile(r"expects a function or a callable class: [^\n]*Got value: (\S+)")
DENIED = re.compile(r"Importing '([\w.]+)' is not allowed")
OTHER_KIND = re.compile(
    r"Import path (?:([\w.]+) )?does not correspond to a subclass of \w+"
    r"|Expected '([\w.]+)' to be a (?:function that|subclass of|class that)"
)
NEEDS = re.compile(r"class_path '([\w.]+)':\s+the following arguments are required: ([\w., ]+)")
INSIDE = re.compile(r"class_path='([\w.]+)'|Given value: ([\w.]+)")
# The base class of each kind of field, and where the classes derived from it are listed.
KINDS = {
    "Optimizer": ("torch.optim.Optimizer", ("torch.optim",)),
    "Callback": (
        "lightning.pytorch.Callback",
        ("lightning.pytorch.callbacks", "taigi_lightning.evaluation.prediction_writer"),
    ),
    "Logger": ("lightning.pytorch.loggers.Logger", ("lightning.pytorch.loggers",)),
    "LightningDataModule": ("lightning.pytorch.LightningDataModule", ("taigi_lightning",)),
}
FIELDS = {
    "optimizer": "Optimizer",
    "callbacks": "Callback",
    "logger": "Logger",
    "data": "LightningDataModule",
}
KIND = re.compile(r"(?:lightning|torch)\.[\w.]*\.(" + "|".join(KINDS) + r")\b|subclass of (\w+)")


def wrong_class(key: str, detail: str, arguments: Sequence[str]) -> str | None:
    """Name the class, where it was written, and what was wanted; None where the fault lies elsewhere.

    Args:
        key: the dotted name of the setting.
        detail: jsonargparse's message about it.
        arguments: the command line without the program's name.
    """
    place = where(key, arguments)
    if match := NEEDS.search(detail):
        name = match[2].split(",")[0].strip()
        short = match[1].rpartition(".")[2]
        return f"{key}{place} is {short}, which needs {match[2].strip()}. Give it: --{key}.{name} VALUE."
    kind = KIND.search(detail)
    base = (kind[1] or kind[2]) if kind else FIELDS.get(key.rpartition(".")[2], "")
    wanted = KINDS.get(base, (base, ()))[0]
    if match := DENIED.search(detail) or OTHER_KIND.search(detail):
        given = next((group for group in match.groups() if group), "") or _given(detail)
        return f"{key} is {given}{place}, which is no {wanted or 'class for this'}; wanted {_example(base)}."
    match = NOT_THERE.search(detail) or NOT_CALLABLE.search(detail)
    if not match:
        return None
    given = match[1] if match.re is NOT_THERE else _given(match[0]) or match[1]
    if not given:
        return f"{key}{place} names no class; wanted {_example(base)}."
    return f"{key}{place} names a class that is not there: {given}.{did_you_mean(_similar(given, base))}"


def wanted_of(key: str) -> str:
    """What a setting wants that takes a class or a group of settings."""
    base = FIELDS.get(key.rpartition(".")[2])
    return _example(base) if base else f"its settings one by one: --{key}.NAME VALUE"


def _given(detail: str) -> str:
    found = INSIDE.search(detail)
    return next((group for group in found.groups() if group), "") if found else ""


def _example(base: str) -> str:
    examples = {
        "Optimizer": "a class derived from it, such as torch.optim.AdamW",
        "Callback": "a class derived from it, such as lightning.pytorch.callbacks.EarlyStopping",
        "Logger": "a class derived from it, such as lightning.pytorch.loggers.CSVLogger",
        "LightningDataModule": "CPTDataModule, SFTDataModule, InstructionDataModule, PredictDataModule or your own",
    }
    return examples.get(base, "a class derived from it")


def _similar(given: str, base: str) -> list[str]:
    """The names most like a class path that leads nowhere: in its own module first, then among those of its kind."""
    module, _, leaf = given.rpartition(".")
    if module and (near := nearest(leaf, class_names(module))):
        return [f"{module}.{name}" for name in near]
    modules = KINDS[base][1] if base in KINDS else ()
    names = {name: other for other in modules for name in class_names(other)}
    return [f"{names[name]}.{name}" if module else name for name in nearest(leaf, names)]


def class_names(module: str) -> list[str]:
    """The public names of a module that are written as classes are; none where there is no such module."""
    try:
        found = import_module(module)
    except ImportError:
        return []
    return [
        name
        for name in {*dir(found), *getattr(found, "__all__", ())}
        if re.match(r"[A-Z]\w*[a-z]|[A-Z]+$", name)
    ]

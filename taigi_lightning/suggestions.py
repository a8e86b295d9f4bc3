"""Errors on the command line and in YAML, said so that the next try succeeds."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import yaml
from jsonargparse import ArgumentParser

Place = tuple[str, str, int]  # dotted key, file, line from 1

UNKNOWN_KEY = re.compile(r"Option '([^']+)' is not accepted|does not accept option '([^']+)'")
WRONG_VALUE = re.compile(r'^Parser key "([^"]+)":\s*(.*)', re.DOTALL)
EXPECTED = re.compile(r"Expected an? (.+?)\. Got value: (.*)", re.DOTALL)
UNKNOWN_CLASS = re.compile(r"class_path '([^']+)'|dot import path string: (\S+)")
AMBIGUOUS = re.compile(r"Multiple subclasses with name (\S+)\. .*?: (.+)\.")
EXAMPLES = {
    "<class 'int'>": ("a whole number", "100"),
    "<class 'float'>": ("a number", "2.0e-4"),
    "<class 'bool'>": ("true or false", "true"),
    "<class 'str'>": ("a text", "some-text"),
}


class SuggestingParser(ArgumentParser):
    """A parser that names the place of a mistake and the nearest thing that would have been right."""

    # The parser that got the arguments, and that of the class or dataclass which refused a key of them, are
    # other objects than the one that reports the error.
    arguments: ClassVar[list[str]] = []
    refusing: ClassVar[ArgumentParser | None] = None

    def parse_args(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> Any:  # type: ignore[override]
        """Parse as jsonargparse does, remembering what was typed."""
        SuggestingParser.arguments = list(sys.argv[1:] if args is None else args)
        return super().parse_args(args, *rest, **options)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one paragraph and exit with 2."""
        if not self.exit_on_error:  # an inner parser; the outer one reports, with the inner one's message
            SuggestingParser.refusing = self
            super().error(message, ex)
        parser = getattr(ex, "subcommand_parser", None) or SuggestingParser.refusing or self
        SuggestingParser.refusing = None
        sys.stderr.write(f"error: {improve(message, self.arguments, parser)}\n")
        sys.exit(2)


def improve(message: str, arguments: Sequence[str], parser: ArgumentParser) -> str:
    """Say again what jsonargparse said: with file and line, the nearest right key, and an example.

    Args:
        message: what jsonargparse would have printed.
        arguments: the command line without the program's name.
        parser: the one that refused: that of the command, or of a class or dataclass within its config.
    """
    if problem := check_config_files(arguments):
        return problem
    if message.startswith("unrecognized arguments:"):
        return _unknown_flags(message, arguments, parser)
    if match := UNKNOWN_KEY.search(message):
        key = match[1] or match[2]
        return _unknown_key(key, arguments, _keys(parser))
    if match := WRONG_VALUE.match(message):
        return _wrong_value(match[1], match[2], arguments)
    return message


# ---- what is wrong --------------------------------------------------------------------------------


def _unknown_flags(message: str, arguments: Sequence[str], parser: ArgumentParser) -> str:
    words = message.partition(":")[2].split()
    flags = [word.partition("=")[0] for word in words if word.startswith("-")]
    if not flags:
        return f"{words[0]!r} belongs to no option. An option is written --name value or --name=value."
    near = nearest(flags[0].lstrip("-"), _keys(parser))
    return f"There is no option {flags[0]}.{_did_you_mean([f'--{key}' for key in near])}"


def _unknown_key(key: str, arguments: Sequence[str], known: Sequence[str]) -> str:
    near = nearest(key, known)
    if not near and known:
        leaves = sorted({name.partition(".")[0] for name in known})
        near_text = f" Known there: {', '.join(leaves[:12])}{', ...' if len(leaves) > 12 else ''}."
    else:
        near_text = _did_you_mean(near)
    place = _where(key, arguments)
    return f"There is no {key!r}{place}.{near_text}"


def _wrong_value(key: str, detail: str, arguments: Sequence[str]) -> str:
    place = _where(key, arguments)
    if match := AMBIGUOUS.search(detail):
        return f"{key}{place} is {match[1]}, of which there are several. Give one in full: {match[2]}."
    if match := EXPECTED.search(detail):
        kind, value = match[1], match[2].strip()
        if kind.startswith("typing.Literal"):
            choices = re.findall(r"'([^']*)'", kind)
            near = _did_you_mean(nearest(value, choices))
            return f"{key} is {value!r}{place}; wanted one of {', '.join(choices)}.{near}"
        wanted, example = EXAMPLES.get(kind, (kind, ""))
        example = f", for example --{key} {example}" if example else ""
        return f"{key} is {value!r}{place}; wanted {wanted}{example}."
    if match := UNKNOWN_CLASS.search(detail):
        name = match[1] or match[2]
        near = _did_you_mean(nearest(name.rpartition(".")[2], _class_names()))
        return f"{key}{place} names a class that is not there: {name}.{near}"
    return f"{key}{place}: {' '.join(detail.split())}"


def check_config_files(arguments: Sequence[str]) -> str | None:
    """What is wrong with the files after --config, if one is missing or is not YAML."""
    for name in config_files(arguments):
        path = Path(name)
        if not path.is_file():
            folder = path.parent if path.parent.is_dir() else Path()
            there = sorted(str(file) for file in folder.glob("*.yaml"))
            near = nearest(name, there) or there[:4]
            return f"There is no file {name}.{_did_you_mean(near)}"
        try:
            root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        except UnicodeDecodeError as error:
            return f"{name} is not UTF-8 (byte {error.start}). Save it as UTF-8."
        except yaml.MarkedYAMLError as error:
            line = (error.problem_mark or error.context_mark).line + 1  # type: ignore[union-attr]
            return f"{name}, line {line} is not YAML: {error.problem}. Check the colons, spaces and brackets."
        except yaml.YAMLError as error:
            return f"{name} is not YAML: {' '.join(str(error).split())}."
        if root is not None and not isinstance(root, yaml.MappingNode):
            return f"{name} holds no settings; wanted lines like `trainer:` with settings indented below."
    return None


# ---- where it is ----------------------------------------------------------------------------------


def config_files(arguments: Sequence[str]) -> list[str]:
    """The files named after -c or --config, in order.

    >>> config_files(["fit", "--config", "a.yaml", "--config=b.yaml", "-c", "c.yaml"])
    ['a.yaml', 'b.yaml', 'c.yaml']
    """
    pairs = zip(arguments, [*arguments[1:], ""], strict=True)
    found = [
        word.partition("=")[2] if "=" in word else following
        for word, following in pairs
        if word.partition("=")[0] in ("-c", "--config")
    ]
    return [name for name in found if name]


def written_keys(file: str) -> Iterator[Place]:
    """Every key of a YAML file with its dotted path and its line."""
    root = yaml.compose(Path(file).read_text(encoding="utf-8"), Loader=yaml.SafeLoader)

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


def _where(key: str, arguments: Sequence[str]) -> str:
    """` (configs/cpt.yaml, line 12)`, ` (--model.lora.rr)` or nothing; later ones win, as in the parser."""
    for word in reversed(arguments):
        flag = word.partition("=")[0].lstrip("-")
        if word.startswith("--") and (flag == key or flag.endswith(f".{key}")):
            return f" (--{flag})"
    for file in reversed(config_files(arguments)):
        places = [place for place in written_keys(file) if place[0] == key or place[0].endswith(f".{key}")]
        if places:
            path, name, line = places[-1]
            inside = f", in {path.rpartition('.')[0]}" if path != key else ""
            return f" ({name}, line {line}{inside})"
    return ""


# ---- what would be right --------------------------------------------------------------------------


def nearest(word: str, known: Iterable[str]) -> list[str]:
    """The known names most like `word`, best first, at most three; the last part of a name counts most.

    >>> nearest("trainer.acumulate_grad_batches", ["trainer.max_steps", "trainer.accumulate_grad_batches"])
    ['trainer.accumulate_grad_batches']
    >>> nearest("lora_aplha", ["r", "lora_alpha", "lora_dropout"])
    ['lora_alpha']
    """
    names = list(dict.fromkeys(known))
    whole = difflib.get_close_matches(word, names, n=3, cutoff=0.75)
    by_leaf = {name.rpartition(".")[2]: name for name in reversed(names)}
    leaf = difflib.get_close_matches(word.rpartition(".")[2], by_leaf, n=3, cutoff=0.75)
    candidates = list(dict.fromkeys([*whole, *(by_leaf[name] for name in leaf)]))
    likeness = {name: difflib.SequenceMatcher(None, word, name).ratio() for name in candidates}
    candidates.sort(key=lambda name: -likeness[name])
    return [name for name in candidates if likeness[name] >= likeness[candidates[0]] - 0.1][:3]


def _did_you_mean(near: Sequence[str]) -> str:
    return f" Did you mean {' or '.join(near)}?" if near else ""


def _keys(parser: ArgumentParser) -> list[str]:
    return [action.dest for action in parser._actions if action.option_strings and action.dest != "help"]


def _class_names() -> list[str]:
    """Names of every loaded optimizer, data module, callback and logger."""
    modules = {
        "torch.optim": ["Optimizer"],
        "lightning.pytorch": ["LightningDataModule", "Callback"],
        "lightning.pytorch.loggers": ["Logger"],
    }
    bases = [
        getattr(sys.modules[m], name) for m, names in modules.items() if m in sys.modules for name in names
    ]
    names, todo = set(), bases
    while todo:
        one = todo.pop()
        names.add(one.__name__)
        todo.extend(one.__subclasses__())
    return sorted(names)

"""What is wrong with a command line or a configuration file, in one sentence that names the remedy."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args

import yaml
from jsonargparse import ArgumentParser

from corpus_tools.documents import OptionalRule
from corpus_tools.errors import printable
from corpus_tools.windows import config_text, read_configs_as_utf8

_WANTED = {
    "PositiveInt": "a whole number of 1 or more",
    "NonNegativeInt": "a whole number of 0 or more",
    "ClosedUnitInterval": "a number from 0 to 1",
}
# What the parser says, and the same for people; groups fill the braces.
_REWORDED = [
    (
        r'Parser key "([\w.]+)": Not of type (\w+): (?:.*: )?(.+?)(?: does not conform.*)?$',
        "--{0} is {2}; give {1}.",
    ),
    (
        r'Parser key "([\w.]+)": Expected a typing\.Literal\[(.*)\]\. Got value: (.*)$',
        "--{0} is {2}; give one of {1}.",
    ),
    (
        r'Parser key "optional_rules": Does not validate against .*Given value: (.*)$',
        f"--optional_rules is {{0}}; give a list of {', '.join(get_args(OptionalRule))}, as in "
        "--optional_rules='[html, pages]'.",
    ),
    (
        r'Parser key "own_rules": .*Given value: (.*)$',
        "--own_rules is {0}; give in a configuration file a list of rules, each with name and pattern.",
    ),
    (
        r'Parser key "([\w.]+)": Does not validate against .*Given value: (.*)$',
        "--{0} is {1}; give pairs, as in --{0}.text content.",
    ),
    (r'Parser key "([\w.]+)": (.*?)\.?$', "--{0}: {1}."),
    (r"unrecognized arguments: (--?[^\s=]+)", "there is no option {0}.{near}"),
    (
        r"Option '([^']+)' is not accepted",
        "there is no key {0}; own rules have name, pattern, replacement, matches and leaves.",
    ),
    (r"does not accept option '([^']+)'", "there is no option {0}.{near}"),
    (
        r"unrecognized arguments: (\S+)",
        "{0} is one argument too many; put quotes around a path with spaces.",
    ),
    (
        r"argument subcommand: invalid choice: '([^']*)'",
        "there is no command {0}; commands are clean, preview and sample.{near}",
    ),
    (r"argument (--\S+): expected one argument", "{0} has no value; write one behind it."),
    (r"arguments are required: (\w+)\.(\w+)", "{0} needs {1}, which is missing."),
    (r'expected "subcommand"', "give a command: clean, preview or sample."),
    (
        r"Unexpected config",
        "the configuration file is empty; give options as lines of the form name: value.",
    ),
    (r"(.*?)\.?$", "{0}."),
]


class Parser(ArgumentParser):
    """Says what is wrong in one line, without the usage before it."""

    names: tuple[str, ...] = ()  # of commands and of options, for suggestions
    arguments: tuple[str, ...] = ()  # what was typed

    def parse_args(self, *arguments: Any, **options: Any) -> Any:
        """Parse as jsonargparse does; configs are read in UTF-8."""
        read_configs_as_utf8()
        return super().parse_args(*arguments, **options)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the sentence and leave with 2."""
        prog = (
            getattr(ex, "subcommand_parser", self)
            .prog.replace(" [options]", "")
            .replace("__main__.py", "corpus_tools")
        )
        said = explain(" ".join(message.split()), self.names)
        if message.startswith("unrecognized arguments: --output_dir") and "sample" in prog:
            said = "sample takes its folder without a name: corpus_tools sample FOLDER."
        option = said.split(maxsplit=1)[0].rstrip(":")
        config = _value_of("--config", self.arguments)
        if config and _value_of(option, self.arguments) is None and "unrecognized" not in message:
            said = f"{config}: {said}"
        print(f"error: {printable(said)} See {prog} --help.", file=sys.stderr)
        self.exit(2)


def config_fault(arguments: Sequence[str]) -> str | None:
    """What is wrong with the file after --config that its parser ends with, or lets through without a word."""
    name = _value_of("--config", arguments)
    if not name or not Path(name).is_file():
        return None
    try:
        root = yaml.compose(config_text(Path(name)), Loader=yaml.SafeLoader)
    except UnicodeDecodeError as error:
        return f"{name}: it is not UTF-8 (byte {error.start}); save it as UTF-8."
    except RecursionError:
        return f"{name}: it is nested too deeply; give options as lines of the form name: value."
    except yaml.YAMLError:
        return None  # the parser says where
    keys = [key for key, _ in root.value] if isinstance(root, yaml.MappingNode) else []
    lines: dict[str, int] = {}
    for key in keys:
        line = key.start_mark.line + 1
        if (first := lines.setdefault(str(key.value), line)) != line:
            return (
                f"{name}, line {line}: {key.value} is there twice, on line {first} already; keep one of them."
            )
    return None


def _value_of(option: str, arguments: Sequence[str]) -> str | None:
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=False):
        if argument == option or argument.startswith(f"{option}="):
            return argument.partition("=")[2] or following
    return None


def explain(message: str, names: Iterable[str]) -> str:
    """The parser's message, reworded where it would need the parser's source to be understood.

    >>> explain("unrecognized arguments: --min_char 5", ["--min_chars"])
    'there is no option --min_char. Did you mean --min_chars?'
    >>> explain('Parser key "limit": Not of type PositiveInt: 0 does not conform to restriction v>0', [])
    '--limit is 0; give a whole number of 1 or more.'
    """
    for pattern, sentence in _REWORDED:
        if found := re.search(pattern, message):
            groups = [_WANTED.get(group, group) for group in found.groups()]
            near = _suggestion(groups[0], names) if "{near}" in sentence else ""
            return sentence.format(*groups, near=near)
    return message


def _suggestion(word: str, names: Iterable[str]) -> str:
    if not word.startswith("-"):  # a command, or an option in a file
        names = [name.removeprefix("--") for name in names]
    others = [name for name in names if name != word]  # which another command has
    near = difflib.get_close_matches(word, others, n=2, cutoff=0.75)
    return f" Did you mean {' or '.join(near)}?" if near else ""

"""The READMEs' sections on Windows: every command, file, option and version in them is one that there is."""

import inspect
import re
import tomllib
from importlib import import_module

import pytest

from taigi_lightning.cli.commands import COMMANDS, TOOLS
from tests.working_folder import ROOT

HEADINGS = {"README.md": "### On Windows\n", "README.zh-TW.md": "### 在 Windows 上\n"}
PYTHON = r".venv\Scripts\python"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def section(readme: str) -> str:
    text = (ROOT / readme).read_text(encoding="utf-8")
    return text.partition(HEADINGS[readme])[2].partition("\n## ")[0]


def lines(text: str) -> list[list[str]]:
    """The words of each PowerShell line: separated by spaces, except in double quotes; # begins a comment."""
    [block] = re.findall(r"```powershell\n(.*?)```", text, flags=re.DOTALL)
    found = []
    for line in block.splitlines():
        words = [(one[0] or one[1]) for one in re.findall(r'"([^"]*)"|([^\s"]+)', line)]
        comment = next((place for place, word in enumerate(words) if word.startswith("#")), len(words))
        found.append(words[:comment])
    return [words for words in found if words]


def check_pip(options: list[str]) -> None:
    """`pip install` with options that are taken here: a file of constraints, this folder with its extras."""
    assert options[0] == "install"
    for option, value in zip(options[1::2], options[2::2], strict=True):
        if option == "-c":
            assert (ROOT / value).is_file()
        else:
            found = re.fullmatch(r"\.\[([\w,]+)\]", value)
            assert option == "-e" and found, (option, value)
            assert set(found[1].split(",")) <= PROJECT["optional-dependencies"].keys()


def check_command(words: list[str]) -> None:
    """One line: a program that is there by then, with arguments that it takes."""
    match words:
        case [name, "=", value] if name.startswith("$env:"):
            assert (name, value) == ("$env:PYTHONUTF8", "1")
        case ["py", version, "-m", "venv", ".venv"]:
            listed = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
            assert version.startswith("-3.") and f'"{version[1:]}"' in listed
        case [program, "-m", "pip", *options]:
            assert program == PYTHON
            check_pip(options)
        case [program, "-m", "taigi_lightning", command]:
            assert program == PYTHON and command in {*COMMANDS, *TOOLS}
        case [program, "-m", "pytest", *files]:
            assert program == PYTHON and files
            assert all((ROOT / file).is_file() for file in files)
        case _:
            raise AssertionError(f"unknown: {words}")


@pytest.mark.parametrize("readme", HEADINGS)
def test_every_line_could_be_typed(readme: str) -> None:
    found = lines(section(readme))
    assert len(found) == 5
    for words in found:
        check_command(words)


def test_both_languages_have_the_same_lines() -> None:
    one, other = map(section, HEADINGS)
    assert lines(one) == lines(other)
    named = [
        re.findall(r"`([^`\n]+)`", re.sub("```.*?```", "", text, flags=re.DOTALL)) for text in (one, other)
    ]
    assert named[0] == named[1]


@pytest.mark.parametrize(
    "words",
    [
        ["py", "-3.10", "-m", "venv", ".venv"],
        ["python", "-m", "taigi_lightning", "demo"],
        [PYTHON, "-m", "taigi_lightning", "demos"],
        [PYTHON, "-m", "pytest", "tests/test_panes.py"],
        [PYTHON, "-m", "pip", "install", "-c", "constraint.txt"],
        [PYTHON, "-m", "pip", "install", "-e", ".[tests]"],
        ["make", "demo"],
    ],
)
def test_a_line_that_could_not_be_typed_is_found(words: list[str]) -> None:
    with pytest.raises(AssertionError):
        check_command(words)


@pytest.mark.parametrize("readme", HEADINGS)
def test_versions_files_and_options_are_those_that_there_are(readme: str) -> None:
    text = section(readme)
    pinned = dict(
        re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE)
    )
    [torch] = re.findall(r"torch (\d+\.\d+\.\d+)", text)
    # With another one installed, the constraints would bring plain pip's, without CUDA, in its place.
    assert torch == pinned["torch"]
    assert "triton-windows" in text and "triton-windows" in pinned
    files = re.findall(r"\btests/\w+\.py", text)
    assert len(files) == 4 and all((ROOT / file).is_file() for file in files)
    for command in re.findall(r"`(\w+) --excel true`", text):
        if command in TOOLS:
            module, name, _ = TOOLS[command]
            assert (
                inspect.signature(getattr(import_module(module), name)).parameters["excel"].annotation
                == "bool"
            )
        else:
            source = (ROOT / "taigi_lightning/cli/lightning_cli.py").read_text(encoding="utf-8")
            assert re.search(rf'== \["{command}"\]:\s+parser.add_argument\(\s+"--excel", type=bool', source)

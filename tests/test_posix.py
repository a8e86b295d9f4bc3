"""What Windows lacks is used only by tests that carry the marker `posix`, and none of it as a file is imported."""

import ast
from functools import cache

import pytest

from tests.posix_uses import Module, all_uses, is_marked, read_module, read_tests, uses
from tests.working_folder import ROOT

# They have another way where the first is not there.
EXCUSED = ("tests.working_folder.link", "tests.conftest.warm_python", "tests.warm_python.WarmPython")
APART = ("tests.benchmarks",)  # which pytest never imports


@cache
def modules() -> dict[str, Module]:
    found = read_tests(ROOT / "tests", "tests")
    return {name: module for name, module in found.items() if not name.startswith((*APART, __name__))}


def unmarked(modules: dict[str, Module]) -> dict[str, set[str]]:
    """Every test that uses what only POSIX has without saying so."""
    return {
        f"{home}.{name}": wrong
        for (home, name), wrong in all_uses(modules, EXCUSED).items()
        if wrong
        and name.startswith("test_")
        and isinstance(node := modules[home].definitions[name], ast.FunctionDef)
        and not (modules[home].marked or any(map(is_marked, node.decorator_list)))
    }


def test_who_uses_what_only_posix_has_is_marked() -> None:
    assert not unmarked(modules()), "mark them posix(reason), or use tests.working_folder.link"


def test_every_file_of_tests_can_be_imported_on_windows() -> None:
    found = {
        home: wrong
        for home, module in modules().items()
        if (wrong := {use for node in module.at_import for use in uses(node, texts=False)})
    }
    assert not found


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import os\ndef test_a(): os.fork()", "os.fork"),
        ("def test_a():\n    import fcntl", "import fcntl"),
        ("SCRIPT = 'import sys, resource'\ndef test_a(): print(SCRIPT)", "'import sys, resource'"),
        ("def helper(p): p.symlink_to('x')\ndef test_a(tmp_path): helper(tmp_path)", "symlink_to"),
        ("def home(p): p.hardlink_to('x')\ndef test_a(home): pass", "hardlink_to"),
        ("def test_a(): open('/proc/self/maps')", "'/proc/'"),
        ("def test_a(): Popen([], start_new_session=True)", "start_new_session"),
        ("import signal\nclass A:\n  def b(self): signal.SIGKILL\ndef test_a(): A()", "signal.SIGKILL"),
    ],
)
def test_it_is_found_where_it_hides(source: str, found: str) -> None:
    [(_, wrong)] = unmarked({"tests.test_a": read_module(ast.parse(source))}).items()
    assert [use.partition(" in tests.")[0] for use in wrong] == [found]
    marked = source.replace("def test_a", "@pytest.mark.posix('why')\ndef test_a")
    assert not unmarked({"tests.test_a": read_module(ast.parse(marked))})


def test_names_that_are_read_at_import_are_found() -> None:
    source = "import pty\n@pytest.mark.posix('why')\n@parametrize('n', [signal.SIGKILL])\ndef test_a(): pass"
    module = read_module(ast.parse(source))
    assert {use for node in module.at_import for use in uses(node, texts=False)} == {
        "import pty",
        "signal.SIGKILL",
    }


def test_the_marker_says_why() -> None:
    for module in modules().values():
        for node in (*module.at_import, *module.definitions.values()):
            for call in ast.walk(node):
                if isinstance(call, ast.Attribute) and call.attr == "posix":
                    assert any(
                        isinstance(whole, ast.Call) and whole.func is call and whole.args
                        for whole in ast.walk(node)
                    ), ast.unparse(node)

"""Wrong inputs of both packages: each is refused in one sentence, at once, and leaves nothing behind."""

from __future__ import annotations

import hashlib
import shlex
from contextlib import suppress
from pathlib import Path

import pytest

from tests.warm_python import WarmPython
from tests.working_folder import small_corpus
from tests.wrong_inputs import CASES
from tests.wrong_inputs.case import Case

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's configs, a base as `models/base`, and a small corpus."""
    return small_corpus(tmp_path_factory.mktemp("wrong"), ROOT / "models" / "tiny-taigi")


def contents(folder: Path) -> dict[str, str]:
    """Every file of a folder with its hash; links are not followed."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
    }


def test_there_are_enough_of_them() -> None:
    assert len(CASES) >= 80
    assert {case.command.split()[0] for case in CASES} == {"taigi_lightning", "corpus_tools"}
    assert len({case.command for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_wrong_input_is_refused_in_one_sentence(case: Case, warm_python: WarmPython, folder: Path) -> None:
    for name, content in case.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = contents(folder)
    package, *arguments = shlex.split(case.command)
    try:
        ended = warm_python.run(package, arguments, folder)
        assert contents(folder) == before
    finally:
        for name in case.files:
            (folder / name).unlink()
        for name in case.files:
            with suppress(OSError):  # what is not empty was there before
                (folder / name).parent.rmdir()
    assert ended.code == case.code, ended.err
    said = ended.err.strip()
    if not case.light:  # what loads has been said before
        said = said.splitlines()[-1]
    assert said.startswith("error: "), said
    assert said.isprintable(), said
    for word in case.words:
        assert word in said
    if case.light:
        assert not ended.out
        assert not ended.heavy, said

"""Where no process forks, commands are started anew: they end as the forks do."""

from pathlib import Path

import pytest

from tests.plain_python import PlainPython
from tests.warm_python import WarmPython


@pytest.mark.posix("compares with forks")
@pytest.mark.parametrize(
    ("package", "arguments", "encoding"),
    [
        ("taigi_lightning", ["score", "毋知—ó.csv", "答案.csv"], "cp950"),
        ("corpus_tools", ["preview", "a.json"], "utf-8"),
    ],
)
def test_a_command_ends_as_a_fork_of_the_warm_one(
    package: str, arguments: list[str], encoding: str, tmp_path: Path, warm_python: WarmPython
) -> None:
    (tmp_path / "a.json").write_text(
        '[{"title": "一", "text": "1. 阮佇台南，看 https://is.gd/x 。"}]', "utf-8"
    )
    with PlainPython() as python:
        assert python.run(package, arguments, tmp_path, encoding) == warm_python.run(
            package, arguments, tmp_path, encoding
        )

"""Workers end with the process that started them, however it ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.corpus_tools.corpus_folder import LONG, rows_of, write_rows

pytestmark = [
    pytest.mark.posix("signals to groups of processes"),
    pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads /proc"),
]


def processes_of(session: int) -> list[int]:
    """The processes of a session that have not ended."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[3] == str(session) and fields[0] != "Z":
            found.append(int(entry.name))
    return found


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    for k in range(60):
        rows = [
            row for a in range(40) for row in rows_of(f"{k}.{a}", *(f"{LONG}{k}.{a}.{i}" for i in range(30)))
        ]
        write_rows(folder / f"{k}.json", rows)
    return folder


# The command, which says `ready` when it begins to import what is heavy.
COMMAND = """
import sys
from corpus_tools.__main__ import main
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "corpus_tools.cli":
            print("ready", file=sys.stderr, flush=True)
sys.meta_path.insert(0, Watch())
sys.exit(main())
"""


def start(source: Path, output_dir: Path) -> subprocess.Popen[str]:
    arguments = ["clean", str(source), "--workers", "2", "--output_dir", str(output_dir)]
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *arguments],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True,
    )  # fmt: skip


def wait_until_none_is_left(session: int) -> None:
    for _ in range(100):
        if not processes_of(session):
            return
        time.sleep(0.05)
    raise AssertionError(f"still there: {processes_of(session)}")


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_no_worker_is_left_when_the_parent_alone_is_ended(name: str, source: Path, tmp_path: Path) -> None:
    number = signal.Signals[name]
    run = start(source, tmp_path / "out")
    assert run.stderr is not None
    for line in run.stderr:
        if line.startswith("clean:"):  # the first shards are done: there are workers
            break
    assert len(processes_of(run.pid)) >= 3
    os.kill(run.pid, number)
    code = run.wait(timeout=30)
    assert code == (130 if number == signal.SIGINT else -number)
    wait_until_none_is_left(run.pid)


@pytest.mark.parametrize("moment", [0.0, 0.1, 0.3, 0.6, 1.0])
def test_ctrl_c_ends_everything_with_one_line(moment: float, source: Path, tmp_path: Path) -> None:
    run = start(source, tmp_path / "out")
    assert run.stderr is not None and run.stderr.readline() == "ready\n"
    time.sleep(moment)
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does
    _, errors = run.communicate(timeout=30)
    assert run.returncode == 130
    assert [line for line in errors.splitlines() if not line.startswith(("clean:", "write:"))] == [
        "stopped by Ctrl-C; an earlier corpus is unchanged, the same command takes this one up again."
    ]
    wait_until_none_is_left(run.pid)

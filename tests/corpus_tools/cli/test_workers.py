"""Workers end with the process that started them, however it ends."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from corpus_tools.signals import exit_at_once, held_back, set_handlers
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


# The command, which says `reached` at a moment and waits there for a signal: what that finds does not depend on how
# fast the machine is. The moment is a module's name (as its import begins) or one of those below.
COMMAND = """
import atexit, builtins, os, signal, sys
from pathlib import Path
from corpus_tools.__main__ import main

moment = {moment!r}
arrived, arrives = os.pipe()
os.set_blocking(arrives, False)
signal.set_wakeup_fd(arrives)

def wait():
    os.write(2, b"reached\\n")
    os.read(arrived, 1)

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == moment:
            wait()

sys.meta_path.insert(0, Watch())
if moment == "a worker begins":
    os.register_at_fork(after_in_child=wait)
if moment == "first shards":
    say = builtins.print
    def say_and_wait(*words, **how):
        say(*words, **how)
        if str(words[0]).startswith("clean:"):
            builtins.print = say
            wait()
    builtins.print = say_and_wait
if moment == "renaming":
    rename = Path.replace
    def wait_and_rename(self, target):
        if Path(target).name == "dropped.parquet":
            wait()
        return rename(self, target)
    Path.replace = wait_and_rename
if moment == "end":
    atexit.register(wait)
sys.exit(main())
"""


def start(source: Path, output_dir: Path, moment: str) -> "subprocess.Popen[str]":
    """The command, once it waits at this moment."""
    arguments = ["clean", str(source), "--workers", "2", "--output_dir", str(output_dir)]
    run = subprocess.Popen(
        [sys.executable, "-c", COMMAND.format(moment=moment), *arguments],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True,
    )  # fmt: skip
    assert run.stderr is not None
    assert any(line == "reached\n" for line in run.stderr), "it ended before"
    return run


def ctrl_c(run: "subprocess.Popen[str]") -> list[str]:
    """Send it as a terminal does, to the whole group; what the command then says, but for how far it is."""
    os.killpg(run.pid, signal.SIGINT)
    _, errors = run.communicate(timeout=30)
    assert run.returncode == 130
    wait_until_none_is_left(run.pid)
    return [line for line in errors.splitlines() if not line.startswith(("clean:", "write:", "reached"))]


def wait_until_none_is_left(session: int) -> None:
    for _ in range(600):
        if not processes_of(session):
            return
        time.sleep(0.05)
    raise AssertionError(f"still there: {processes_of(session)}")


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_no_worker_is_left_when_the_parent_alone_is_ended(name: str, source: Path, tmp_path: Path) -> None:
    number = signal.Signals[name]
    run = start(source, tmp_path / "out", "first shards")
    assert len(processes_of(run.pid)) >= 3
    os.kill(run.pid, number)
    code = run.wait(timeout=30)
    assert code == (130 if number == signal.SIGINT else -number)
    wait_until_none_is_left(run.pid)


UNCHANGED = "stopped by Ctrl-C; an earlier corpus is unchanged, the same command takes this one up again."
COMPLETE = "stopped by Ctrl-C; the corpus is complete."


@pytest.mark.parametrize(
    "moment", ["corpus_tools.cli", "jsonargparse", "corpus_tools.pipeline", "a worker begins", "first shards"]
)
def test_ctrl_c_ends_everything_with_one_line(moment: str, source: Path, tmp_path: Path) -> None:
    run = start(source, tmp_path / "out", moment)
    assert ctrl_c(run) == [UNCHANGED]
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize("moment", ["renaming", "end"])
def test_ctrl_c_when_the_corpus_is_finished_leaves_all_of_it(
    moment: str, source: Path, tmp_path: Path
) -> None:
    """What comes between two files waits: an earlier corpus is already gone by then."""
    out = tmp_path / "out"
    run = start(source, out, moment)
    assert ctrl_c(run) == [COMPLETE]
    manifest = json.loads((out / "manifest.json").read_text())
    assert [name for name in manifest["outputs"] if not (out / name).is_file()] == []
    assert not (out / ".partial").exists()


def test_who_calls_it_from_python_gets_the_signal_afterwards() -> None:
    """As in a notebook: KeyboardInterrupt, but not between two files."""
    done = []
    with pytest.raises(KeyboardInterrupt), held_back("the corpus is complete"):
        signal.raise_signal(signal.SIGINT)
        done.append("all of it")
    assert done == ["all of it"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_was_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert set_handlers([signal.SIGINT], exit_at_once) == {}
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)

"""Failures of the machine, met for real where a CPU can: a model that is gated, absent or out of reach, no GPU."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pandas as pd
import pytest

from tests.warm_python import WarmPython

ROOT = Path(__file__).parents[3]


class Hub(BaseHTTPRequestHandler):
    """Answers as the Hub does for a gated model, and for one that is not there."""

    def do_GET(self) -> None:
        code, status = ("GatedRepo", 403) if "gated" in self.path else ("RepoNotFound", 404)
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", f"the Hub's own words about {code}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET  # noqa: N815  a name of the base class's choosing

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub() -> Iterator[str]:
    """The address of a Hub on this machine."""
    server = HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def fails(tmp_path: Path, *arguments: str, python: str = sys.executable, **variables: str) -> str:
    """What `validate` prints before it exits with 1, without a traceback.

    Args:
        tmp_path: where a small corpus is written; libraries look for downloaded models there.
        arguments: options of the command.
        python: one that starts anew, which alone reads the Hub's variables and finds other modules.
        variables: of its environment.
    """
    rows = pd.DataFrame({"text": ["今仔日的天氣真好，咱來去海邊仔𨑨迌。"]})
    for split in ("train", "validation"):
        rows.to_parquet(tmp_path / f"{split}-00000-of-00001.parquet")
    arguments = ("--data.data_dir", str(tmp_path), *arguments)
    command = [python, "-m", "taigi_lightning", "validate", "--data", "CPTDataModule", *arguments]
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0", **variables
    }  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert done.returncode == 1
    return done.stderr


@pytest.mark.parametrize("name", ["somebody/gated", "somebody/absent"])
def test_a_model_that_the_hub_refuses(tmp_path: Path, hub: str, name: str) -> None:
    printed = fails(tmp_path, "--model.base", name, HF_ENDPOINT=hub)
    assert name in printed
    assert "accept its terms" in printed


def test_a_model_that_is_in_no_cache_while_offline(tmp_path: Path, warm_python: WarmPython) -> None:
    python = warm_python.executable
    printed = fails(tmp_path, "--model.base", "somebody/absent", python=python, HF_HUB_OFFLINE="1")
    assert "hf download somebody/absent" in printed


def test_a_gpu_that_is_not_there(tmp_path: Path, warm_python: WarmPython) -> None:
    gpu = ("--trainer.accelerator", "gpu", "--model.base", "models/tiny-taigi")
    printed = fails(tmp_path, *gpu, python=warm_python.executable, CUDA_VISIBLE_DEVICES="")
    assert "--trainer.accelerator cpu" in printed


def test_bitsandbytes_that_is_not_installed(tmp_path: Path) -> None:
    (tmp_path / "bitsandbytes.py").write_text("raise ImportError(\"No module named 'bitsandbytes'\")\n")
    printed = fails(tmp_path, PYTHONPATH=os.pathsep.join((str(tmp_path), str(ROOT))))
    assert "pip install --upgrade bitsandbytes" in printed

"""The Triton kernels on cards older and newer than those they were written on: their compiler needs no GPU."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from taigi_lightning import kernels

pytest.importorskip("triton")
FOLDER = Path(kernels.__path__[0])
ROOT = FOLDER.parents[1]


def written_kernels() -> set[str]:
    """Names of the functions that Triton compiles and that are launched: the others are called by these."""
    return {
        node.name
        for file in FOLDER.glob("*_triton.py")
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.endswith("_kernel")
    }


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """One row for each kernel, dtype and generation. In a process of its own: other tests interpret the kernels."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton")), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.taigi_lightning.kernels.compile_kernels"],
        capture_output=True, text=True, check=False, env=environment, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


# KiB of shared memory that one program may take: NVIDIA's CUDA C++ Programming Guide, technical specifications
# per compute capability.
@pytest.mark.parametrize(
    ("capability", "shared_kib"), [(75, 64), (80, 163), (86, 99), (89, 99), (90, 227), (100, 227), (120, 99)]
)
def test_every_kernel_compiles_in_every_dtype_and_fits_shared_memory(
    compiled: list[dict[str, Any]], capability: int, shared_kib: int
) -> None:
    mine = [row for row in compiled if row["capability"] == capability]
    dtypes = {"torch.float16", "torch.float32"} | ({"torch.bfloat16"} if capability >= 80 else set())
    assert {(row["kernel"], row["dtype"]) for row in mine} == {
        (kernel, dtype) for kernel in written_kernels() for dtype in dtypes
    }
    assert max(row["shared"] for row in mine) <= shared_kib * 1024

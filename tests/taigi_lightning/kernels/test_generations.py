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


def written_kernels(capability: int, dtype: str) -> set[str]:
    """Names of the functions that Triton compiles and that are launched on a generation: the others are called by
    these. Products in int8 begin with 8.0 and in fp8 with 8.9, and all else is in bfloat16 then."""
    begin = {"int8_triton.py": 80, "fp8_triton.py": 89}
    return {
        node.name
        for file in FOLDER.glob("*_triton.py")
        if file.name not in begin or (capability >= begin[file.name] and dtype == "bfloat16")
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.endswith("_kernel")
    }


def compiled(cache: Path, *options: str) -> list[dict[str, Any]]:
    """One row for each kernel, dtype and generation. In a process of its own: other tests interpret the kernels."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(cache), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.taigi_lightning.kernels.compile_kernels", *options],
        capture_output=True, text=True, check=False, env=environment, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


# KiB of shared memory that one program may take: NVIDIA's CUDA C++ Programming Guide, technical specifications
# per compute capability.
SHARED_KIB = {75: 64, 80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}


def check(rows: list[dict[str, Any]], dtypes: dict[int, set[str]]) -> None:
    assert {(row["capability"], row["kernel"], row["dtype"]) for row in rows} == {
        (capability, kernel, f"torch.{dtype}")
        for capability in dtypes
        for dtype in dtypes[capability]
        for kernel in written_kernels(capability, dtype)
    }
    for row in rows:
        assert row["shared"] <= SHARED_KIB[row["capability"]] * 1024, row


def test_every_kernel_compiles_for_old_and_new_cards_and_fits_shared_memory(tmp_path: Path) -> None:
    rows = compiled(tmp_path, "--few")
    check(rows, {75: {"float16"}, 90: {"bfloat16"}, 120: {"float32"}})
    # One for any number of rows, with LoRA's part and without; and of rows that are read once, or twice, for two ends.
    of_int8 = [row for row in rows if row["capability"] == 90 and row["module"].endswith("int8_triton")]
    for kernel, wanted in (("_product_kernel", 2), ("_rotate_kernel", 3)):
        assert len({row["hash"] for row in of_int8 if row["kernel"] == kernel}) == wanted


@pytest.mark.slow
def test_every_kernel_compiles_for_every_generation_in_every_dtype(tmp_path: Path) -> None:
    both = {"float16", "float32"}
    check(compiled(tmp_path), {c: both | ({"bfloat16"} if c >= 80 else set()) for c in SHARED_KIB})

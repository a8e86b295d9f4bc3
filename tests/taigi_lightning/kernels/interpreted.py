"""Triton's kernels on a CPU."""

import importlib
import os
import sys
from types import ModuleType

import pytest


def interpreted(name: str) -> ModuleType:
    """A module of kernels, interpreted on the CPU: Triton decides that when it is first imported."""
    if "triton" in sys.modules and not os.environ.get("TRITON_INTERPRET"):
        pytest.skip("Triton was imported to compile: run with TRITON_INTERPRET=1")
    os.environ["TRITON_INTERPRET"] = "1"
    pytest.importorskip(
        "triton", reason="Triton comes with torch for CUDA; its interpreter runs these anywhere"
    )
    return importlib.import_module(f"taigi_lightning.kernels.{name}")

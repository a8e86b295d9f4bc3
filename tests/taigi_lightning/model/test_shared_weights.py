"""Ranks of one machine hold what waits on its host once, and nothing of it once they are gone: real processes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

ROOT = Path(__file__).parents[3]
PACKED = 4 * (4 * 256 * 256 + 3 * 256 * 1024) // 2  # bytes
CASES = [
    "2:shared",
    "4:shared",
    "2:cached",
    "2:alone",
    "2:strangers",
    "2:hidden",
    "2:hidden leader",
    "2:other",
    "2:killed",
]
pytestmark = [
    pytest.mark.posix("forks, and memory that is shared"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is shared on Linux alone"),
]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What the ranks of each case found; the base's packed weights take 2 MB, another's differ in one block."""
    folder = tmp_path_factory.mktemp("ranks")
    config = LlamaConfig(
        vocab_size=64, hidden_size=256, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=8
    )
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder / "base")
    model.model.layers[3].mlp.up_proj.weight.data[5, 7] = 3.0
    model.save_pretrained(folder / "base-other")
    done = subprocess.run(
        [sys.executable, "-m", "tests.taigi_lightning.model.sharing_ranks", str(folder / "base"), str(folder), *CASES],
        capture_output=True, text=True, check=False, cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # threads would not outlive a fork
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {row["case"]: row for row in rows}


@pytest.mark.parametrize("case", ["2:shared", "4:shared", "2:cached"])
def test_the_packed_weights_are_held_once(found: dict[str, Any], case: str) -> None:
    """Packed now, or read from where they were kept."""
    row = found[case]
    assert row["codes"] == [0] * int(case[0])
    assert sum(rank["bytes"] for rank in row["ranks"]) == pytest.approx(PACKED, rel=0.01)
    assert all(rank["waiting"] == [True] * 28 for rank in row["ranks"])  # none has a copy of its own
    assert {rank["weights"] for rank in row["ranks"]} == {
        rank["weights"] for rank in found["2:alone"]["ranks"]
    }
    assert not any(rank["said"] for rank in row["ranks"])


@pytest.mark.parametrize(("how", "said"), [("strangers", 0), ("hidden", 1), ("hidden leader", 2)])
def test_ranks_that_cannot_share_hold_their_own_and_say_so(
    found: dict[str, Any], how: str, said: int
) -> None:
    row = found[f"2:{how}"]
    assert row["codes"] == [0, 0]
    assert {rank["weights"] for rank in row["ranks"]} == {
        rank["weights"] for rank in found["2:alone"]["ranks"]
    }
    assert sum(len(rank["said"]) for rank in row["ranks"]) == said
    assert sum(any(rank["waiting"]) for rank in row["ranks"]) == (how == "hidden")


def test_ranks_that_packed_other_weights_are_refused(found: dict[str, Any]) -> None:
    for rank in found["2:other"]["ranks"]:
        assert "Rank 1 packed other weights than rank 0, such as model.layers.3.mlp.up" in rank["refused"]


@pytest.mark.parametrize("case", ["2:killed", "4:shared"])
def test_nothing_is_left_of_ranks_that_are_gone(found: dict[str, Any], case: str) -> None:
    row = found[case]
    assert row["codes"] == ([-9, -9] if case == "2:killed" else [0] * 4)
    assert all(len(rank["files"]) == 4 for rank in row["ranks"])  # one for each layer
    assert len({file for rank in row["ranks"] for file in rank["files"]}) == 4
    assert row["left"] == []

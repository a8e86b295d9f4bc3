"""A share of old texts keeps what CPT on new ones alone forgets."""

from pathlib import Path

import pytest

from tests.benchmarks.replay import measure
from tests.working_folder import ROOT


@pytest.mark.slow
def test_replay_keeps_the_exercises_that_cpt_alone_forgets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    losses = measure(tmp_path, steps=100, share=0.2)
    forgotten = losses["alone"]["old"] - losses["base"]["old"]
    assert forgotten > 0.3
    assert losses["replay"]["old"] - losses["base"]["old"] < forgotten / 2
    assert losses["replay"]["new"] < losses["base"]["new"] - 3

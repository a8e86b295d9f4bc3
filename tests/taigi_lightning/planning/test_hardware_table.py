"""The table of bases and cards: its cells are `plan`'s own figures, and the READMEs have it."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from taigi_lightning.planning.base_shape import KNOWN
from taigi_lightning.planning.hardware_table import BASES, CARDS, hardware_table
from taigi_lightning.planning.memory import GIB
from taigi_lightning.planning.needing_less import fitting
from taigi_lightning.planning.prediction_needs import predict_needs
from taigi_lightning.planning.settings import Settings
from taigi_lightning.planning.step_time import ASSUMED
from taigi_lightning.planning.training_needs import needs
from tests.taigi_lightning.planning.test_command import CPT, ROOT, plan

SETTINGS = Settings(rank=64, accumulate=4)
NUMBER = r"\d+(?:\.\d+)?"
CELL = re.compile(rf"({NUMBER}) \+ ({NUMBER}), ({NUMBER})(?: ([a-z]))?")


def cells(text: str) -> dict[str, list[str]]:
    """The cells of each base's line in a text that holds the table."""
    lines = (line.strip("|").split("|") for line in text.splitlines() if line.startswith("|"))
    names = {base.rpartition("/")[2] for base in BASES}
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in lines if row[0].strip() in names}


@pytest.fixture(scope="module")
def table() -> str:
    return hardware_table(SETTINGS, ASSUMED)


@pytest.mark.parametrize("base", BASES)
def test_a_cell_is_what_plan_says_of_its_base_and_card(table: str, base: str) -> None:
    found = cells(table)[base.rpartition("/")[2]]
    assert len(found) == len(CARDS)
    slowest = 9.9
    for card, cell in zip(CARDS, found, strict=True):
        match = CELL.fullmatch(cell)
        assert match, cell
        settings = replace(SETTINGS, base=base)
        if match[4]:
            flags, settings = fitting(settings, KNOWN[base], card * GIB) or ([], settings)
            assert f"{match[4]}: {' '.join(flags)}\n" in table + "\n"
        need = needs(settings, KNOWN[base], card * GIB)
        assert float(match[1]) == pytest.approx(need.total / GIB, abs=0.06)
        assert float(match[1]) <= card
        assert float(match[2]) == pytest.approx(need.host_total / GIB, abs=0.06)
        assert slowest + 0.02 >= float(match[3]) >= 1.0  # a larger card is no slower
        slowest = float(match[3]) if settings.max_length == SETTINGS.max_length else slowest


def test_a_short_host_changes_or_ends_it() -> None:
    free, short = cells(hardware_table(SETTINGS, ASSUMED)), cells(hardware_table(SETTINGS, ASSUMED, 12 * GIB))
    assert short["Llama-3.1-70B"][:4] == ["–"] * 4  # 33 GiB of weights have nowhere to be
    assert free["Llama-3.1-70B"][1] != "–"
    for row in short.values():
        assert all(float(CELL.fullmatch(cell)[2]) <= 12 for cell in row if cell != "–")  # type: ignore[index]


def test_a_table_of_predictions_counts_what_predictions_take() -> None:
    asked = Settings(rank=16, predicts=True)
    found = cells(hardware_table(asked, ASSUMED))
    for base in BASES[:2]:
        for card, cell in zip(CARDS, found[base.rpartition("/")[2]], strict=True):
            need, match = predict_needs(asked, KNOWN[base], card * GIB), CELL.fullmatch(cell)
            assert match and not match[4]
            assert float(match[1]) == pytest.approx(need.total / GIB, abs=0.06)
            assert float(match[2]) == pytest.approx(need.host_total / GIB, abs=0.06)


def test_a_slow_link_costs_more_where_weights_wait() -> None:
    slow = cells(hardware_table(SETTINGS, replace(ASSUMED, link=3e9)))["Llama-3.1-70B"][0]
    fast = cells(hardware_table(SETTINGS, ASSUMED))["Llama-3.1-70B"][0]
    assert float(CELL.fullmatch(slow)[3]) > float(CELL.fullmatch(fast)[3])  # type: ignore[index]


def test_the_command_prints_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    monkeypatch.chdir(ROOT)
    assert plan(monkeypatch, *CPT, "--table") == 0
    assert cells(capsys.readouterr().out) == cells(table)


@pytest.mark.parametrize("name", ["README.md", "README.zh-TW.md"])
def test_the_readmes_have_it(table: str, name: str) -> None:
    """Within 5 %: a better planner need not change them."""
    shown, wanted = cells((Path(ROOT) / name).read_text(encoding="utf-8")), cells(table)
    assert shown.keys() == wanted.keys()
    for base, row in wanted.items():
        for found, cell in zip(shown[base], row, strict=True):
            numbers = [[float(n) for n in re.findall(NUMBER, text)] for text in (found, cell)]
            assert numbers[0] == pytest.approx(numbers[1], rel=0.05, abs=0.1)
            assert found[-1].isalpha() == cell[-1].isalpha()

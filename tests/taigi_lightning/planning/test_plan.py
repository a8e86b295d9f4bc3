"""A plan as a value: on corpora that `corpus_tools clean` wrote, and as JSON for scripts."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from huggingface_hub.constants import HF_HUB_CACHE
from transformers import LlamaConfig

from taigi_lightning.errors import InputError
from taigi_lightning.planning.base_shape import KNOWN
from taigi_lightning.planning.cards import Card
from taigi_lightning.planning.command import plan_config
from taigi_lightning.planning.hardware_table import hardware_table
from taigi_lightning.planning.memory import CONTEXT, GIB, packed_layer_bytes
from taigi_lightning.planning.option_checks import check_options
from taigi_lightning.planning.plan import Disk, Found, Plan, make_plan
from taigi_lightning.planning.plan_text import render
from taigi_lightning.planning.prediction_needs import predict_needs
from taigi_lightning.planning.settings import Settings, corpus_characters, read_settings
from taigi_lightning.planning.step_time import ASSUMED, Machine
from taigi_lightning.planning.training_needs import needs
from taigi_lightning.training.best_checkpoint import checkpoint_callbacks
from tests.taigi_lightning.planning.small_plans import BIG, planned, saved_base
from tests.taigi_lightning.planning.test_command import CPT, ROOT, plan
from tests.working_folder import link

TAIGI = KNOWN["Bohanlu/Taigi-Llama-2-13B"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample corpus as the real cleaner leaves it."""
    folder = tmp_path_factory.mktemp("cleaned")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for command in (["sample", "data", "--articles", "20"], ["clean", "data/IMA-Taiwan"]):
        arguments = [sys.executable, "-m", "corpus_tools", *command]
        subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, check=True)
    return folder / "data" / "cpt_corpus"


@pytest.fixture
def home(tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the configs and the cleaned corpus."""
    link(tmp_path / "configs", ROOT / "configs")
    shutil.copytree(corpus, tmp_path / "data" / "cpt_corpus")
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ---- the corpus ------------------------------------------------------------------------------------


def test_the_corpus_that_clean_wrote_is_counted_in_passes(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = pq.read_table(home / "data" / "cpt_corpus" / "train-00000-of-00001.parquet")["text"]
    characters = sum(len(text) for text in texts.to_pylist())
    assert plan(monkeypatch, *CPT, "--gpu_memory", "80GiB") == 0
    printed = capsys.readouterr().out
    passes = 1000 * 32768 / characters
    assert f"about {passes:.1f} times the corpus ({characters:,} characters" in printed


def test_a_corpus_of_other_tools_is_counted_too(tmp_path: Path, corpus: Path) -> None:
    table = pq.read_table(corpus / "train-00000-of-00001.parquet", columns=["text"])
    pq.write_table(table, tmp_path / "train-a.parquet")
    assert corpus_characters(str(tmp_path)) == corpus_characters(str(corpus))
    assert corpus_characters(str(tmp_path)) == pc.sum(pc.utf8_length(table["text"])).as_py()


def test_no_passes_are_said_of_what_is_not_there(tmp_path: Path) -> None:
    assert corpus_characters(str(tmp_path / "nowhere")) is None
    pq.write_table(pa.table({"body": ["文"]}), tmp_path / "train-a.parquet")
    assert corpus_characters(str(tmp_path)) is None


def one_disk(free: int) -> dict[str, Disk]:
    """A disk with so many bytes free, which the run's folder and the Hub's cache share."""
    return dict.fromkeys(["models/cpt_model", HF_HUB_CACHE], Disk(1, free))


# ---- the value -------------------------------------------------------------------------------------


def test_a_plan_is_the_same_value_whenever_it_is_made() -> None:
    settings = Settings(rank=64, accumulate=4, max_steps=1000, folder="models/cpt_model")
    disks = one_disk(50 * GIB)
    found = Found(Card("a card", 24 * GIB), 4_000_000, 8000.0, disks)
    first = make_plan(settings, TAIGI, found)
    assert first == make_plan(settings, TAIGI, found)
    assert first.memory_total_bytes == sum(part.bytes for part in first.memory)
    assert first.host_memory_total_bytes == sum(part.bytes for part in first.host_memory)
    assert first.fits is True
    assert first.spare_bytes == 24 * GIB - first.memory_total_bytes
    assert first.schedule is not None
    assert first.schedule.corpus_passes == pytest.approx(32_768_000 / 4_000_000)
    assert first.schedule.run_seconds == pytest.approx(4096)
    # 25 GiB to fetch and 34 to write on one disk with 50 free.
    assert [folder.enough for folder in first.disk] == [False, False]
    assert "NOT enough" in render(first)


def test_what_does_not_fit_says_what_would() -> None:
    settings = Settings(rank=64, accumulate=4, max_steps=1000, folder="models/cpt_model")
    disks = one_disk(500 * GIB)
    short = make_plan(settings, TAIGI, Found(Card("a card", 5 * GIB), disks=disks))
    assert short.fits is False
    assert short.spare_bytes is not None
    assert short.spare_bytes < 0
    assert "--model.optimizer bitsandbytes.optim.PagedAdamW8bit" in short.advice
    hopeless = make_plan(settings, TAIGI, Found(Card("a card", 1 * GIB), disks=disks))
    assert hopeless.advice == ()
    assert "Nothing short of a smaller base" in render(hopeless)
    unknown = make_plan(settings, TAIGI, Found(disks=disks))
    assert (unknown.fits, unknown.spare_bytes, unknown.card) == (None, None, None)
    assert "Give one: --gpu_memory" in render(unknown)


def test_training_every_weight_counts_each_in_32_bits() -> None:
    settings = Settings(from_scratch=True, quantization="nf4", folder="models/cpt_model")
    disks = one_disk(500 * GIB)
    found = make_plan(settings, TAIGI, Found(disks=disks))
    parts = {part.purpose: part.bytes for part in found.memory}
    assert parts["weights, projections"] + parts["weights, the rest"] == 4 * TAIGI.parameters
    assert parts["gradients"] == 4 * TAIGI.parameters
    assert "adapter" not in parts
    assert found.decisions.path_reason == "every weight trains"


@pytest.mark.parametrize(
    ("monitor", "most", "kept"), [("step", 2, 2), ("val/loss", 10, 12), ("val/loss", -1, -1)]
)
def test_the_newest_checkpoints_are_counted_beside_the_best(monitor: str, most: int, kept: int) -> None:
    model = {"base": "models/tiny-taigi", "lora": {"r": 4}}
    checkpoint = {"monitor": monitor, "save_top_k": most, "mode": "auto"}
    assert read_settings({"model": model, "checkpoint": checkpoint}).checkpoints == kept
    if most > 0:
        section = {**checkpoint, "dirpath": "x", "save_weights_only": False}
        section |= {"every_n_train_steps": 1, "train_time_interval": None, "enable_version_counter": False}
        assert sum(callback.save_top_k for callback in checkpoint_callbacks(section)) == kept


def test_rows_of_examples_are_said_to_be_filled_at_most(tmp_path: Path) -> None:
    base = saved_base(tmp_path, LlamaConfig(**BIG))
    assert "at most these" in " ".join(planned(base, data={"class_path": "SFTDataModule"}).notes)
    assert "at most these" not in " ".join(planned(base).notes)


# GiB that PyTorch had reserved on an H200 held to a limit: tests/benchmarks/LOG.md. Margins aside, nothing was fitted.
@pytest.mark.parametrize(
    ("limit", "changes", "reserved", "on_host", "kept"),
    [
        (6.0, {"optimizer": "bitsandbytes.optim.AdamW8bit"}, 5.78, 40, 0),
        (7.2, {}, 6.82, 40, 0),
        (4.5, {"optimizer": "bitsandbytes.optim.PagedAdamW8bit", "batch_size": 1}, 4.28, 39, 0),
        (15.3, {"optimizer": "bitsandbytes.optim.AdamW8bit", "weights_on_host": 39}, 13.90, 39, 9),
        (24.0, {"optimizer": "bitsandbytes.optim.AdamW8bit"}, 22.57, 36, 18),
    ],
)
def test_weights_on_the_host_are_planned_as_they_were_measured(
    limit: float, changes: dict[str, Any], reserved: float, on_host: int, kept: int
) -> None:
    settings, measured = replace(Settings(rank=64), **changes), Machine(link=55.3e9, rate=809.9e12)
    need = needs(settings, TAIGI, int(limit * GIB) + CONTEXT, machine=measured)
    assert (need.decisions.layers_on_host, need.decisions.layers_kept) == (on_host, kept)
    assert (
        need.decisions.layers_moving in (39 - kept, 40 - kept) or limit == 4.5
    )  # there some keep their input today
    assert (need.total - CONTEXT) / GIB == pytest.approx(reserved, rel=0.06)


def test_a_plan_says_what_waits_on_the_host_and_what_a_slow_link_costs() -> None:
    settings = Settings(rank=64, folder="models/cpt_model")
    disks = one_disk(500 * GIB)
    fast = make_plan(settings, TAIGI, Found(Card("a card", 8 * GIB), disks=disks))
    slow = make_plan(
        settings, TAIGI, Found(Card("a card", 8 * GIB), disks=disks, machine=replace(ASSUMED, link=1e9))
    )
    assert fast.fits
    assert "of 40 of 40 layers wait in host memory" in render(fast)
    assert "1.01 times the time at 12 GB/s (--host_link)" in render(fast)
    assert "On the host (GiB): weights 5.9, activations 6.1, input embedding 0.5." in render(fast)
    assert slow.decisions.slow_down > 1.4
    assert {part.purpose: part.bytes for part in fast.memory}["weights, arriving"] == 2 * packed_layer_bytes(
        TAIGI
    )


def test_fp8_is_planned_said_and_refused() -> None:
    card = Card("a card", 80 * GIB)
    disks = one_disk(500 * GIB)
    settings = Settings(rank=64, folder="models/cpt_model")
    plans = [make_plan(replace(settings, matmul=m), TAIGI, Found(card, disks=disks)) for m in ("bf16", "fp8")]
    assert plans[0].memory_total_bytes == plans[1].memory_total_bytes  # two layouts of one byte, one of two
    assert "8 bits in two layouts instead, of 4" in render(plans[1])
    assert "capability 8.9" in render(plans[1])
    assert "capability 8.9" not in render(plans[0])
    slow = replace(ASSUMED, link=1e9)
    # Products that take half as long hide half as much of the link.
    small = [
        make_plan(
            replace(settings, matmul=m), TAIGI, Found(Card("a card", 8 * GIB), disks=disks, machine=slow)
        )
        for m in ("bf16", "fp8")
    ]
    assert small[0].decisions.kept_slow_down < small[1].decisions.kept_slow_down
    asking = replace(settings, predicts=True, matmul="fp8")
    held = [
        predict_needs(s, TAIGI, 24 * GIB).decisions.layers_dequantised
        for s in (replace(asking, matmul="bf16"), asking)
    ]
    assert 1.9 * held[0] < held[1]
    with pytest.raises(InputError, match=r"quantization none no weights are in 4 bits.*matmul bf16"):
        make_plan(replace(settings, matmul="fp8", quantization="none"), TAIGI, Found(card, disks=disks))
    with pytest.raises(InputError, match=r"transformers' own code: a reason.*matmul bf16"):
        make_plan(replace(settings, matmul="fp8"), TAIGI, Found(card, disks=disks), "a reason")


@pytest.mark.parametrize(
    ("trainer", "said"),
    [
        ({"precision": "16-mixed"}, "precision is 16-mixed, and its results are in bfloat16"),
        ({"precision": 32}, "precision is 32, and"),
        ({"accelerator": "cpu"}, "accelerator is cpu, and 8 bits are multiplied on NVIDIA cards alone"),
        ({"accelerator": "mps", "precision": "bf16-mixed"}, "accelerator is mps"),
    ],
)
def test_8_bits_that_no_card_would_get_are_not_planned(trainer: dict[str, Any], said: str) -> None:
    model: dict[str, Any] = {"lora": {"r": 8}, "matmul": "int8"}
    with pytest.raises(InputError, match=rf"model.matmul is int8, but trainer.{said}.*matmul bf16"):
        check_options(read_settings({"model": model, "trainer": trainer}), None)
    with pytest.raises(InputError, match=said):
        hardware_table(read_settings({"model": model, "trainer": trainer}), ASSUMED)
    check_options(read_settings({"model": model | {"matmul": "bf16"}, "trainer": trainer}), None)
    for fine in ({}, {"precision": "bf16"}, {"accelerator": "gpu", "precision": None}):
        check_options(read_settings({"model": model, "trainer": fine}), None)


def test_directions_in_16_bits_are_counted_and_cost_dequantised_layers() -> None:
    card = Card("a card", 24 * GIB)
    disks = one_disk(500 * GIB)
    settings = Settings(rank=64, folder="models/cpt_model")
    int8, mixed = (
        make_plan(replace(settings, matmul=m), TAIGI, Found(card, disks=disks))
        for m in ("int8", "int8_mixed")
    )
    size = 40 * 64 * 2 * (3 * 5120 + 13824 + 3 * 5120 + 5120 + 2 * 13824 + 5120)
    purpose = "strongest directions"
    assert {p.purpose: p.bytes for p in mixed.memory}[purpose] == size
    assert purpose not in {p.purpose for p in int8.memory}
    assert "64 of each input, 16 bits" in render(mixed) and mixed.fits
    # A checkpoint holds the directions alone, and two are kept while a third is written.
    kept = [{p.purpose: p.bytes for p in plan.disk[-1].parts}["checkpoints"] for plan in (int8, mixed)]
    assert kept[1] - kept[0] == 3 * 40 * 64 * 2 * (3 * 5120 + 13824)
    asked = [
        predict_needs(replace(settings, predicts=True, matmul=m), TAIGI, 24 * GIB)
        for m in ("int8", "int8_mixed")
    ]
    assert [sum(p.bytes for p in need.device if p.purpose == purpose) for need in asked] == [0, size]
    assert (
        asked[1].total <= 24 * GIB
        and asked[1].decisions.layers_dequantised <= asked[0].decisions.layers_dequantised
    )


def test_weights_that_a_run_would_not_let_wait_are_not_planned_either() -> None:
    shape = KNOWN["Bohanlu/Taigi-Llama-2-7B"]
    for options, general in (({}, "its type gemma2 is another"), ({"quantization": "none"}, None)):
        settings = Settings(weights_on_host=3, **options)  # type: ignore[arg-type]
        with pytest.raises(
            InputError, match=r"model\.weights_on_host is 3, but .*--model\.weights_on_host none"
        ):
            make_plan(settings, shape, Found(), general)


def test_json_holds_the_plan_under_the_names_of_its_fields(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan(monkeypatch, *CPT, "--gpu_memory", "24GiB", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == set(Plan.__dataclass_fields__)
    assert all(name in str(Plan.__doc__) for name in found)
    config = {"model": {"lora": {"r": 64}}, "trainer": {"accumulate_grad_batches": 4, "max_steps": 1000}}
    config["trainer"] |= {"default_root_dir": "models/cpt_model"}
    expected = plan_config({**config, "data": "CPTDataModule", "gpu_memory": "24GiB"})
    free = {"disk": None}  # it changes while the test runs
    assert found | free == json.loads(json.dumps(asdict(expected))) | free
    assert found["decisions"]["layers_kept"] == 16
    assert found["schedule"]["corpus_passes"] > 100

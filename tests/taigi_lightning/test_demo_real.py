"""The demo on a real model: its commands are real ones, its figures are what was measured."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from taigi_lightning import demo_real
from taigi_lightning.demo import Step
from taigi_lightning.demo_real import COMPARISONS, CPU, MODELS, NAMES, Name, Size, finish, real_steps
from taigi_lightning.errors import InputError
from taigi_lightning.model.gguf import packaged_gguf, unpack_gguf

STEPS = real_steps(Path("models/demo-real"), CPU, 9527)


def test_everything_the_demo_writes_lies_under_its_folder(tmp_path: Path) -> None:
    for step in real_steps(tmp_path / "real", CPU, 9527):
        paths = [argument.rpartition("=")[2] for argument in step.arguments if "/" in argument]
        assert all(str(tmp_path) in path or path.startswith("configs/") for path in paths)


@pytest.mark.parametrize(
    "step", [step for step in STEPS if step.arguments[1] in ("fit", "predict")], ids=lambda step: step.name
)
def test_every_option_is_one_the_command_knows(
    step: Step, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from taigi_lightning.cli.lightning_cli import main

    config = () if "--config" in step.arguments else ("--config", "configs/predict.yaml")
    monkeypatch.setattr(
        "sys.argv", ["taigi_lightning", step.arguments[1], *config, *step.arguments[2:], "--print_config"]
    )
    with pytest.raises(SystemExit) as stopped:
        main()
    printed = capsys.readouterr()
    assert stopped.value.code == 0, printed.err
    assert "quantization: nf4" in printed.out


PERPLEXITY = {
    "base": 8.0,
    "cpt": 2.0,
    "start": 2.0,
    "merged": 2.2,
    "sft": 2.1,
    "base16": 7.0,
    "merged16": 2.0,
}


def write_results(folder: Path, **changes: float) -> None:
    """What the commands leave, as far as the summary reads it."""
    perplexity = PERPLEXITY | changes
    models = (("base", "cpt", "start", "sft"), ("merged",), ("base16", "merged16"))
    for bits, names in zip(COMPARISONS, models, strict=True):
        (folder / f"comparison-{bits}").mkdir()
        rows = [f"{name},24,0.5,{perplexity[name]}" for name in names]
        table = "\n".join(["Model,Total,Accuracy,PerplexityPerCharacter", *rows])
        (folder / f"comparison-{bits}" / "comparison.csv").write_text(table)
    (folder / "score.json").write_text('{"accuracy": 0.625}')
    for stage in ("cpt_model", "final_model"):
        (folder / stage / "logs" / "version_0").mkdir(parents=True)
        log = "epoch,step,train/loss\n0,0,3.5\n0,1,2.5\n"
        (folder / stage / "logs" / "version_0" / "metrics.csv").write_text(log)


def test_the_gain_that_each_hand_off_kept_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_results(tmp_path)
    finish(tmp_path, "Gemma 3 270M", CPU, "CPU", 61.0)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["model"], summary["kept"]) == ("Gemma 3 270M", 1.0)
    assert summary["kept_16bit"] == pytest.approx(1.0)
    assert summary["kept_4bit"] == pytest.approx(0.931, abs=1e-3)
    assert summary["perplexity_per_character"]["merged"] == 2.2
    assert "93.1%" in capsys.readouterr().out
    page = (tmp_path / "report.html").read_text()
    assert "<svg" in page
    assert all(what in page for what in ("Gemma 3 270M", *NAMES.values()))


@pytest.mark.parametrize("start", [2.2, 9.0])
def test_a_start_that_lost_the_gain_fails_after_writing_its_figures(tmp_path: Path, start: float) -> None:
    write_results(tmp_path, start=start)
    with pytest.raises(SystemExit, match="of what CPT gained"):
        finish(tmp_path, "Gemma 3 270M", CPU, "CPU", 61.0)
    assert (tmp_path / "summary.json").is_file()


def carried(model: Name, folder: Path) -> Path:
    """The packaged model, where the extra `real` is installed."""
    if importlib.util.find_spec("gguf") is None:
        pytest.skip("gguf is not installed: make demo-real installs it")
    try:
        return packaged_gguf(MODELS[model].package, folder)
    except InputError as error:
        pytest.skip(str(error))


@pytest.mark.slow
@pytest.mark.parametrize("model, heads", [("smollm2-135m", (9, 3)), ("gemma-3-270m", (4, 1))])
def test_the_packaged_model_becomes_a_plain_base(tmp_path: Path, model: Name, heads: tuple[int, int]) -> None:
    unpack_gguf(carried(model, tmp_path), tmp_path / "base")
    config = AutoConfig.from_pretrained(tmp_path / "base")
    assert (config.num_attention_heads, config.num_key_value_heads) == heads
    assert config.tie_word_embeddings
    assert not hasattr(config, "quantization_config")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    assert {parameter.dtype for parameter in plain.parameters()} == {torch.bfloat16}
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    ids = tokenizer("The capital of France is the city of", return_tensors="pt").input_ids
    with torch.no_grad():
        best = plain.float()(ids).logits[0, -1].topk(5).indices
    assert " Paris" in [tokenizer.decode(token) for token in best]


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_a_few_steps_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Name) -> None:
    carried(model, tmp_path / "real")
    size = Size(articles=4, questions=4, steps=4, rows=1, max_length=256)
    monkeypatch.setattr(demo_real, "CPU", size)
    monkeypatch.setattr(demo_real, "GPU", size)
    demo_real.demo_real(model, tmp_path / "real")
    summary = json.loads((tmp_path / "real" / "summary.json").read_text())
    assert summary["perplexity_per_character"]["cpt"] < summary["perplexity_per_character"]["base"]
    assert summary["kept"] >= demo_real.SURVIVES
    assert summary["kept_4bit"] < summary["kept"]

"""The whole thread on a tiny model and a CPU: the real commands, one by one, and what they gained."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

TINY = ("--config", "configs/tiny.yaml")
CPT = ("--config", "configs/cpt.yaml", *TINY)
SFT = ("--config", "configs/sft.yaml", *TINY)
PREDICT = ("--config", "configs/predict.yaml", *TINY)
LOOK_AT = 40  # lines of a failed step's output that are shown


@dataclass(frozen=True)
class Step:
    """One command of the demo: `arguments` follow `python -m`."""

    name: str
    arguments: tuple[str, ...]


def demo(output_dir: Path = Path("models/demo"), test_questions: int = 300, seed: int = 9527) -> None:
    """Teach the tiny model in two stages on a sample corpus and show what each stage gained.

    Runs the real commands as subprocesses and prints each: sample, clean, validate, predict and score before;
    fit (CPT), validate, predict and score after it; fit (SFT), predict and score. A last line repeats SFT
    without CPT on the questions that need the corpus's own words. The figures go to `summary.json`.

    Args:
        output_dir: where everything is written; each step's output goes to `logs/`.
        test_questions: held-out questions; none of their facts stands in any training material.
        seed: of the sample and of both stages.
    """
    began = time.monotonic()
    folder = Path(output_dir)
    outputs = {step.name: run_step(step, folder) for step in demo_steps(folder, test_questions, seed)}
    scores = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in _score_files(folder)}
    summary = {
        "perplexity_before": perplexity(outputs["perplexity-before"]),
        "perplexity_after": perplexity(outputs["perplexity-after"]),
        "accuracy_base": scores["score-base"]["accuracy"],
        "accuracy_cpt": scores["score-cpt"]["accuracy"],
        "accuracy_sft": scores["score-sft"]["accuracy"],
        "questions": scores["score-sft"]["total"],
        "seconds": round(time.monotonic() - began, 1),
    }
    aside = folder / "summary.json.partial"
    aside.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    aside.replace(folder / "summary.json")
    console = Console()
    console.print(gains_table(summary, scores))
    console.print(files_table(folder))
    console.print(f"{summary['seconds']:.0f} seconds; the figures: {folder / 'summary.json'}")


def demo_steps(folder: Path, test_questions: int, seed: int) -> list[Step]:
    """Every command of the demo, in order; all that they write lies under `folder`."""
    data, corpus, tiny = folder / "data", folder / "data" / "cpt_corpus", "models/tiny-taigi"
    cpt, sft, without = folder / "cpt_model", folder / "final_model", folder / "sft_without_cpt"
    questions, words = data / "1001-question-v3.csv", data / "vocabulary-question.csv"

    def validate(name: str, base: Path | str) -> Step:
        place = (f"--data.init_args.data_dir={corpus}", f"--model.base={base}", "--model.lora=null")
        return Step(name, ("taigi_lightning", "validate", *CPT, *place))

    def fit(name: str, configs: Sequence[str], base: Path | str, root: Path, *source: str) -> Step:
        place = (f"--model.base={base}", f"--trainer.default_root_dir={root}", f"--seed_everything={seed}")
        return Step(name, ("taigi_lightning", "fit", *configs, *place, *source))

    def answer(name: str, base: Path | str, adapter: Path | None, source: Path) -> list[Step]:
        predictions = folder / "predictions" / f"{name}.csv"
        answers = source.with_name(f"{source.stem}-answers.csv")
        options = (
            f"--model.base={base}",
            f"--model.adapter={adapter or 'null'}",
            f"--data.init_args.questions={source}",
            f"--trainer.callbacks.init_args.output={predictions}",
        )
        figures = f"--json={folder / 'predictions' / f'score-{name}.json'}"
        return [
            Step(f"predict-{name}", ("taigi_lightning", "predict", *PREDICT, *options)),
            Step(f"score-{name}", ("taigi_lightning", "score", str(predictions), str(answers), figures)),
        ]

    train = f"--data.init_args.train_file={data / 'AI_conv.csv'}"
    sample = ("--test_questions", str(test_questions), "--seed", str(seed))
    return [
        Step("sample", ("corpus_tools", "sample", str(data), *sample)),
        Step("clean", ("corpus_tools", "clean", str(data / "IMA-Taiwan"), "--output_dir", str(corpus))),
        validate("perplexity-before", tiny),
        *answer("base", tiny, None, questions),
        fit("cpt", CPT, tiny, cpt, f"--data.init_args.data_dir={corpus}"),
        validate("perplexity-after", cpt),
        *answer("cpt", cpt, None, questions),
        fit("sft", SFT, cpt, sft, train),
        *answer("sft", cpt, sft / "adapter", questions),
        *answer("words-sft", cpt, sft / "adapter", words),
        fit("sft-without-cpt", SFT, tiny, without, train, "--export.merge=false"),
        *answer("words-without-cpt", tiny, without / "adapter", words),
    ]


def run_step(step: Step, folder: Path) -> str:
    """Run one step, its output into `folder/logs/NAME.log`, and return that output.

    A step that fails shows the end of its output, and the demo exits with its code.
    """
    command = [sys.executable, "-m", *step.arguments]
    print("$ python -m", shlex.join(step.arguments), flush=True)
    log = folder / "logs" / f"{step.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    environment: Mapping[str, str] = {**os.environ, "PYTHONWARNINGS": "ignore", "COLUMNS": "120"}
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace",
        env=environment, check=False,
    )  # fmt: skip
    log.write_text(done.stdout, encoding="utf-8")
    if done.returncode != 0:
        print("\n".join(done.stdout.splitlines()[-LOOK_AT:]), file=sys.stderr)
        print(f"error: the step {step.name} failed; all of its output: {log}", file=sys.stderr)
        raise SystemExit(done.returncode if done.returncode > 0 else 1)
    print(f"  {time.monotonic() - began:.0f} s", flush=True)
    return done.stdout


def perplexity(output: str) -> float:
    """The held-out perplexity in what `validate` printed.

    >>> perplexity("│      val/loss        │   1.5  │\\n│   val/perplexity     │  4.48  │")
    4.48
    """
    found = re.findall(r"val/perplexity[^0-9]*([0-9.]+(?:e[+-]?\d+)?)", output)
    if not found:
        raise RuntimeError(f"validate printed no val/perplexity:\n{output[-2000:]}")
    return float(found[-1])


def gains_table(summary: Mapping[str, float], scores: Mapping[str, Mapping[str, object]]) -> Table:
    """Perplexity and accuracy of the base, after CPT and after SFT; the ablation in the last two rows."""
    table = Table(title=f"What each stage gained, on {summary['questions']} held-out questions")
    for column in ("", "base", "after CPT", "after SFT", "SFT without CPT"):
        table.add_column(column)
    before, after = summary["perplexity_before"], summary["perplexity_after"]
    table.add_row("held-out perplexity", f"{before:.2f}", f"{after:.2f} ({after / before - 1:+.0%})", "", "")
    shown = [_share(scores[f"score-{name}"]) for name in ("base", "cpt", "sft")]
    table.add_row("accuracy (95 % interval)", *shown, "")
    both, alone = _share(scores["score-words-sft"]), _share(scores["score-words-without-cpt"])
    table.add_row("  on the corpus's own words", "", "", both, alone)
    return table


def files_table(folder: Path) -> Table:
    """Where each file lies."""
    table = Table(show_header=False, box=None)
    for what, where in (
        ("cleaned corpus", "data/cpt_corpus"),
        ("CPT adapter and merged model", "cpt_model"),
        ("SFT adapter and merged model", "final_model"),
        ("answers", "predictions/sft.csv"),
        ("output of every step", "logs"),
    ):
        table.add_row(what, str(folder / where))
    return table


def _score_files(folder: Path) -> list[Path]:
    return sorted((folder / "predictions").glob("score-*.json"))


def _share(score: Mapping[str, object]) -> str:
    interval = score["interval"]
    assert isinstance(interval, list)
    return f"{score['accuracy']:.1%} ({interval[0]:.1%} to {interval[1]:.1%})"

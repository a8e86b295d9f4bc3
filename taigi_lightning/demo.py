"""The whole thread on a tiny model and a CPU: the real commands, one by one, and what they gained."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from taigi_lightning.atomic_write import check_place, write_json
from taigi_lightning.evaluation.scoring import Answers, Score, compare, read_answers, score
from taigi_lightning.planning.run_files import IN_A_RUN
from taigi_lightning.terminal import console, print_line

TINY = ("--config", "configs/tiny.yaml")
CPT = ("--config", "configs/cpt.yaml", *TINY, "--config", "configs/tiny_cpt.yaml")
SFT = ("--config", "configs/sft.yaml", *TINY, "--config", "configs/tiny_sft.yaml")
PREDICT = ("--config", "configs/predict.yaml", *TINY)
# Whose answers are scored, and what the table calls them.
MODELS = {"base": "base", "cpt": "CPT", "sft-without-cpt": "SFT without CPT", "sft": "CPT, then SFT"}
LOOK_AT = 40  # lines of a failed step's output that are shown


@dataclass(frozen=True)
class Step:
    """One command of the demo: `arguments` follow `python -m`."""

    name: str
    arguments: tuple[str, ...]


def demo(output_dir: Path = Path("models/demo"), test_questions: int = 300, seed: int = 9527) -> None:
    """Teach the tiny model in two stages on a sample corpus and show what each stage gained.

    Runs the real commands as subprocesses and prints each: sample, clean, validate, predict and score before;
    fit (CPT), validate, predict and score after it; fit (SFT), predict and score; at last SFT without CPT,
    predict and score. A third of the questions need words that only the corpus explains: they tell what CPT
    is good for. The figures go to `summary.json`.

    Args:
        output_dir: where everything is written; each step's output goes to `logs/`.
        test_questions: held-out questions; none of their facts stands in any training material.
        seed: of the sample and of both stages.
    """
    began = time.monotonic()
    folder = Path(output_dir)
    check_place(folder, [f"sft_without_cpt/{name}" for name in IN_A_RUN])
    outputs = {step.name: run_step(step, folder) for step in demo_steps(folder, test_questions, seed)}
    answers = read_answers(folder / "data" / "1001-question-v3-answers.csv")
    words = read_answers(folder / "data" / "vocabulary-question-answers.csv")
    given = {name: read_answers(folder / "predictions" / f"{name}.csv") for name in MODELS}
    scores = {name: score(given[name], answers) for name in MODELS}
    on_words = {name: score(_among(given[name], words), words) for name in MODELS}
    split = compare(_among(given["sft"], words), _among(given["sft-without-cpt"], words), words)
    summary: dict[str, object] = {
        "perplexity_before": perplexity(outputs["perplexity-before"]),
        "perplexity_after": perplexity(outputs["perplexity-after"]),
        "questions": len(answers),
        "questions_on_the_corpus_words": len(words),
        **{f"accuracy_{name}": _figures(scores[name]) for name in MODELS},
        **{f"accuracy_{name}_on_the_corpus_words": _figures(on_words[name]) for name in MODELS},
        "p_value_of_cpt_on_the_corpus_words": split.p_value,
        "seconds": round(time.monotonic() - began, 1),
    }
    write_json(folder / "summary.json", summary)
    screen = console()
    screen.print(gains_table(summary, scores, on_words))
    screen.print(
        f"SFT with and without CPT on the corpus's own words: McNemar's exact p = {split.p_value:.2g}."
    )
    screen.print("The rest of the questions, the tiny base's limits: models/tiny-taigi/README.md")
    screen.print(files_table(folder))
    screen.print(f"{summary['seconds']:.0f} seconds; the figures: {folder / 'summary.json'}")


def demo_steps(folder: Path, test_questions: int, seed: int) -> list[Step]:
    """Every command of the demo, in order; all that they write lies under `folder`."""
    data, corpus, tiny = folder / "data", folder / "data" / "cpt_corpus", "models/tiny-taigi"
    cpt, sft, without = folder / "cpt_model", folder / "final_model", folder / "sft_without_cpt"
    questions = data / "1001-question-v3.csv"

    def validate(name: str, base: Path | str) -> Step:
        place = (f"--data.init_args.data_dir={corpus}", f"--model.base={base}", "--model.lora=null")
        return Step(name, ("taigi_lightning", "validate", *CPT, *place))

    def fit(name: str, configs: Sequence[str], base: Path | str, root: Path, *source: str) -> Step:
        place = (
            f"--model.base={base}",
            f"--trainer.default_root_dir={root}",
            f"--seed_everything={seed}",
            "--run.overwrite=true",
        )
        return Step(name, ("taigi_lightning", "fit", *configs, *place, *source))

    def answer(name: str, base: Path | str, adapter: Path | None) -> list[Step]:
        predictions = folder / "predictions" / f"{name}.csv"
        options = (
            f"--model.base={base}",
            f"--model.adapter={adapter or 'null'}",
            f"--data.init_args.questions={questions}",
            f"--trainer.callbacks.init_args.output={predictions}",
        )
        answers = questions.with_name(f"{questions.stem}-answers.csv")
        return [
            Step(f"predict-{name}", ("taigi_lightning", "predict", *PREDICT, *options)),
            Step(f"score-{name}", ("taigi_lightning", "score", str(predictions), str(answers))),
        ]

    train = f"--data.init_args.train_file={data / 'AI_conv.csv'}"
    sample = ("--test_questions", str(test_questions), "--seed", str(seed))
    return [
        Step("sample", ("corpus_tools", "sample", str(data), *sample)),
        Step("clean", ("corpus_tools", "clean", str(data / "IMA-Taiwan"), "--output_dir", str(corpus))),
        validate("perplexity-before", tiny),
        *answer("base", tiny, None),
        fit("cpt", CPT, tiny, cpt, f"--data.init_args.data_dir={corpus}"),
        validate("perplexity-after", cpt),
        *answer("cpt", cpt, None),
        fit("sft", SFT, cpt, sft, train),
        *answer("sft", cpt, sft / "adapter"),
        fit("sft-without-cpt", SFT, tiny, without, train, "--export.merge=false"),
        *answer("sft-without-cpt", tiny, without / "adapter"),
    ]


def run_step(step: Step, folder: Path) -> str:
    """Run one step, its output into `folder/logs/NAME.log`, and return that output.

    A step that fails shows the end of its output, and the demo exits with its code.
    """
    command = [sys.executable, "-m", *step.arguments]
    print_line(f"$ python -m {shlex.join(step.arguments)}", flush=True)
    log = folder / "logs" / f"{step.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    environment: Mapping[str, str] = {
        **os.environ, "PYTHONWARNINGS": "ignore", "COLUMNS": "120", "PYTHONIOENCODING": "utf-8",
    }  # fmt: skip
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace",
        env=environment, check=False,
    )  # fmt: skip
    log.write_text(done.stdout, encoding="utf-8", newline="\n")
    if done.returncode != 0:
        for line in done.stdout.splitlines()[-LOOK_AT:]:
            print_line(line, error=True)
        print_line(f"error: the step {step.name} failed; all of its output: {log}", error=True)
        raise SystemExit(done.returncode if done.returncode > 0 else 1)
    print_line(f"  {time.monotonic() - began:.0f} s", flush=True)
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


def gains_table(
    summary: Mapping[str, object], scores: Mapping[str, Score], on_words: Mapping[str, Score]
) -> Table:
    """Perplexity and accuracy of the base, after CPT, after SFT alone, and after both."""
    before, after = (float(str(summary[f"perplexity_{when}"])) for when in ("before", "after"))
    perplexities = {"base": f"{before:,.2f}", "cpt": f"{after:,.2f} ({after / before - 1:+.0%})"}
    table = Table(title="What each stage gained", caption="in brackets: 95 % intervals")
    table.add_column("")
    table.add_column("perplexity of\nheld-out titles", justify="right")
    table.add_column(f"correct answers to {summary['questions']}\nheld-out questions", justify="right")
    words = summary["questions_on_the_corpus_words"]
    table.add_column(f"of the {words} on the\ncorpus's own words", justify="right")
    for name, title in MODELS.items():
        table.add_row(title, perplexities.get(name, ""), _share(scores[name]), _share(on_words[name]))
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


def _among(given: Answers, wanted: Answers) -> Answers:
    """The answers given to the questions that `wanted` holds."""
    ids = {question for question, _ in wanted}
    return [(question, answer) for question, answer in given if question in ids]


def _figures(score: Score) -> dict[str, object]:
    return {"accuracy": score.accuracy, "interval": score.interval}


def _share(score: Score) -> str:
    low, high = score.interval
    return f"{score.accuracy:.0%} ({low:.0%} to {high:.0%})"

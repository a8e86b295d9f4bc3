"""README.md of a finished model: what it is, what it came from, what one may do with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from taigi_lightning.atomic_write import write_text
from taigi_lightning.errors import InputError
from taigi_lightning.reports.csv_log import read_run_log
from taigi_lightning.reports.training_report import fit_figures, read_json
from taigi_lightning.tasks.prompts import render_prompt
from taigi_lightning.tasks.questions import Question

CARD = "README.md"
# What a reader of the card wants to know of `run_report.fit_figures`; the rest is about the machine.
TEXT_METRICS = {
    "validation loss": "loss on held-out text, nats a token",
    "perplexity": "perplexity on held-out text",
    "training loss at the end": "training loss at the end, nats a token",
}
QUESTION_METRICS = {
    "validation accuracy": "accuracy on held-out questions (chance: 25%)",
    "validation loss": "loss on their answers, nats a token",
    "training loss at the end": "training loss at the end, nats a token",
}
# The weights of these bases and of everything made from them; the Hub spells licences in lower case.
LANGUAGES = {"nan": "Taigi (Taiwanese Hokkien, 台語)", "hak": "Hakka (客語)", "zh": "Mandarin (華語)"}
LICENSES = {"Bohanlu/Taigi-Llama-2": "cc-by-nc-sa-4.0", "meta-llama/Llama-2": "llama2"}


def write_model_card(folder: Path, license: str | None = None, language: str = "nan") -> Path:
    """Write `README.md` into a model's folder, aside first and then renamed.

    Args:
        folder: what `fit` left: lineage.json, config.yaml and logs are used where there are.
        license: the base's licence as the Hub spells it; None takes what is known of the base.
        language: ISO 639 code of the language the model was taught.

    Returns:
        the card's path.

    Raises:
        InputError: the folder holds no lineage.json, so nobody knows what the model came from.
    """
    lineage = read_json(folder / "lineage.json") or read_json(folder / "adapter" / "lineage.json")
    if not isinstance(lineage, dict) or "base" not in lineage:
        raise InputError(
            f"{folder} holds no lineage.json that names a base, so it is not a model that `fit` finished. "
            "Give the folder after trainer.default_root_dir, for example models/final_model."
        )
    config = folder / "config.yaml"
    try:
        settings = yaml.safe_load(config.read_text(encoding="utf-8")) if config.is_file() else {}
    except yaml.YAMLError as error:
        raise InputError(f"{config} is not YAML ({error}). It is written by `fit`: was it edited?") from error
    metrics = fit_figures(read_run_log(folder).metrics) if any(folder.glob("logs/**/metrics.csv")) else {}
    text = model_card(folder.name, lineage, settings, metrics, license, language)
    write_text(folder / CARD, text)
    return folder / CARD


def model_card(
    name: str,
    lineage: Mapping[str, Any],
    settings: Mapping[str, Any],
    metrics: Mapping[str, str],
    license: str | None = None,
    language: str = "nan",
) -> str:
    """The card's text: the Hub's YAML header and a page of Markdown.

    Args:
        name: the model's.
        lineage: from lineage.json.
        settings: the resolved config of the run.
        metrics: from `run_report.fit_figures`.
        license: the base's; None takes what is known of it.
        language: ISO 639 code.
    """
    root = first_base(lineage)
    license = license or base_license(root)
    questions = (settings.get("data") or {}).get("class_path", "").endswith("SFTDataModule")
    spoken = LANGUAGES.get(language, f"the language `{language}`")
    labels = QUESTION_METRICS if questions else TEXT_METRICS
    shown = [(label, metrics[figure]) for figure, label in labels.items() if figure in metrics]
    sections = [
        f"# {name}",
        f"A language model for {spoken}, made from `{root}`"
        + (", taught to answer four-choice questions about a passage." if questions else "."),
        _terms(root, license),
        "## How it was made\n\n" + "\n".join(f"{n}. {stage}" for n, stage in enumerate(stages(lineage), 1)),
        _table("Training of the last stage", ("setting", "value"), training_rows(settings)),
        _table("Measured during training", ("metric", "value"), shown),
        _use(name, questions),
        "## Limits\n\nWhat it says comes from its texts, true or not, and nothing was done to make it safe to talk to. "
        "Held-out text and questions come from the same sources as those it was trained on; elsewhere expect less.",
    ]
    header = yaml.safe_dump(_header(root, license, language), allow_unicode=True, sort_keys=False)
    return f"---\n{header}---\n" + "\n\n".join(section for section in sections if section) + "\n"


def _header(root: str, license: str | None, language: str) -> dict[str, Any]:
    """What the Hub reads."""
    header: dict[str, Any] = {
        "language": [language],
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["qlora", *(["taigi", "taiwanese-hokkien"] if language == "nan" else [])],
    }
    if license:
        header["license"] = license
    if root.count("/") == 1 and not root.startswith("models/"):
        header |= {"base_model": root, "base_model_relation": "finetune"}
    return header


def _terms(root: str, license: str | None) -> str:
    """What one may do with the model, as far as the base decides it."""
    if not license:
        return (
            f"The licence of {root} is not known here: look it up, and name it before you share this model."
        )
    terms = f"The base's weights are under **{license.upper()}**, which holds for this model too."
    if "-nc-" in license:
        terms += " That excludes commercial use; what you share must name the base and keep the same terms."
    return f"{terms} The terms of the texts it was trained on hold beside it."


def _use(name: str, questions: bool) -> str:
    """How to load the model and, if it was taught to answer, what to ask it with."""
    example = Question("", "{passage}", "{question}", ("{one}", "{two}", "{three}", "{four}"), None, 0)
    prompt = render_prompt(example) if questions else ""
    asked = (
        f"It was trained on this prompt; the answer is 1, 2, 3 or 4:\n\n```text\n{prompt}\n```"
        if prompt
        else ""
    )
    code = (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'tokenizer = AutoTokenizer.from_pretrained("{name}")\n'
        f'model = AutoModelForCausalLM.from_pretrained("{name}", dtype="auto", device_map="auto")'
    )
    return "\n\n".join(part for part in ("## Use", f"```python\n{code}\n```", asked) if part)


def stages(lineage: Mapping[str, Any]) -> list[str]:
    """Each stage of a model, the oldest first: its base, and the data it was trained on."""
    base, data = lineage["base"], lineage.get("data") or {}
    before = stages(base["lineage"]) if base.get("lineage") else []
    trained = (
        f"trained on `{data['path']}` (SHA-256 `{str(data.get('sha256'))[:12]}`)"
        if data.get("path")
        else "trained"
    )
    return [*before, f"`{base.get('name')}` ({base.get('quantization', 'unquantised')}), {trained}"]


def first_base(lineage: Mapping[str, Any]) -> str:
    """The model that the whole chain of stages began with."""
    base = lineage["base"]
    return first_base(base["lineage"]) if base.get("lineage") else str(base.get("name"))


def base_license(base: str) -> str | None:
    """The licence of a base whose terms are known.

    >>> base_license("Bohanlu/Taigi-Llama-2-13B"), base_license("someone/model")
    ('cc-by-nc-sa-4.0', None)
    """
    return next((terms for start, terms in LICENSES.items() if base.startswith(start)), None)


def training_rows(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The settings that decide what a model learnt, for a reader who wants to do it again."""
    trainer, model, data = (settings.get(name) or {} for name in ("trainer", "model", "data"))
    optimizer, lora, arguments = (
        model.get("optimizer") or {},
        model.get("lora") or {},
        data.get("init_args") or {},
    )
    batch = arguments.get("batch_size")
    found = {
        "optimizer steps": trainer.get("max_steps"),
        "batch": batch and f"{batch} × {trainer.get('accumulate_grad_batches') or 1} accumulated",
        "longest sequence": arguments.get("max_length") and f"{arguments['max_length']} tokens",
        "LoRA r, alpha, dropout": lora
        and f"{lora.get('r')}, {lora.get('lora_alpha')}, {lora.get('lora_dropout')}",
        "optimizer": optimizer.get("class_path"),
        "learning rate": (optimizer.get("init_args") or {}).get("lr"),
        "course of the learning rate": model.get("lr_scheduler"),
        "base weights in training": model.get("quantization"),
        "seed": settings.get("seed_everything"),
    }
    return [(name, str(value)) for name, value in found.items() if value is not None and value != {}]


def _table(title: str, head: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    if not rows:
        return ""
    lines = [f"| {left} | {right} |".replace("\n", " ") for left, right in [head, ("-", "-"), *rows]]
    return f"## {title}\n\n" + "\n".join(lines)


def card_command(folder: Path, license: str | None = None, language: str = "nan") -> None:
    """Write README.md, the model card, into a finished model's folder.

    Args:
        folder: the model's folder, as `fit` left it.
        license: the base's licence, such as cc-by-nc-sa-4.0; without it, what is known of the base.
        language: ISO 639 code of the language the model was taught, such as hak.
    """
    print(write_model_card(folder, license, language))

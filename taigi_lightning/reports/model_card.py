"""README.md of a finished model or adapter: what it is, what it came from, what one may do with it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData

from taigi_lightning.atomic_write import write_text
from taigi_lightning.errors import InputError
from taigi_lightning.planning.run_files import ADAPTER_CONFIG, lineage_file
from taigi_lightning.planning.run_log import read_run_log
from taigi_lightning.reports.markdown import code, plain
from taigi_lightning.reports.model_origin import (
    first_base,
    hub_name,
    license_of,
    public_name,
    stages,
    training_rows,
)
from taigi_lightning.reports.training_report import exported_checkpoint, fit_figures
from taigi_lightning.tasks.question_prompt import question_prompt
from taigi_lightning.tasks.questions import Question
from taigi_lightning.terminal import print_line

CARD = "README.md"
ADAPTER = "adapter"  # the folder of a run that holds its adapter
TEMPLATE = Path(__file__).with_name("templates") / "model_card.md"
# What a reader of the card wants to know of `training_report.fit_figures`; the rest is about the machine.
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
LANGUAGES = {"nan": "Taigi (Taiwanese Hokkien, 台語)", "hak": "Hakka (客語)", "zh": "Mandarin (華語)"}


def write_model_cards(
    folder: Path,
    license: str | None = None,
    language: str = "nan",
    base_model: str | None = None,
    datasets: Sequence[str] = (),
    logged: bool = True,
) -> list[Path]:
    """Write `README.md` for a run's model and for its adapter, aside first and then renamed.

    Args:
        folder: what `fit` or `merge` left: lineage.json, config.yaml and logs are used where there are.
        license: the base's licence as the Hub spells it; None takes what is known of the base.
        language: ISO 639 code of the language the model was taught.
        base_model: the base's name on the Hub; None takes it from the lineage, unless that names a folder.
        datasets: names on the Hub of the data it was trained on.
        logged: whether the run logged what it measured: an earlier one's log may lie in the folder.

    Returns:
        the cards' paths: of the merged model, of the adapter, or of both.

    Raises:
        InputError: the folder holds no lineage.json, so nobody knows what the model came from; or a file that the
            card is made from is broken.
    """
    parts = {folder: False, folder / ADAPTER: True}
    if (folder / ADAPTER_CONFIG).is_file():
        parts = {folder: True}
    lineages = {part: lineage for part in parts if (lineage := lineage_file(part)) is not None}
    if not lineages:
        raise InputError(
            f"{folder} holds no lineage.json that names a base, so it is not a model that `fit` finished. "
            "Give the folder after trainer.default_root_dir, for example models/final_model."
        )
    run = folder.parent if list(parts.values()) == [True] else folder
    settings = _settings(run / "config.yaml")
    exported = exported_checkpoint(next(iter(lineages.values())))
    logged = logged and any(run.glob("logs/**/metrics.csv"))
    metrics = fit_figures(read_run_log(run).metrics, exported) if logged else {}
    written = []
    for part, lineage in lineages.items():
        card = model_card(
            f"{part.resolve().parent.name}/{part.name}" if parts[part] else part.resolve().name,
            lineage, settings, metrics, license, language,
            adapter=parts[part], base_model=base_model, datasets=datasets,
        )  # fmt: skip
        write_text(part / CARD, str(card))
        written.append(part / CARD)
    return written


def _settings(config: Path) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(config.read_text(encoding="utf-8")) if config.is_file() else {}
    except yaml.YAMLError as error:
        raise InputError(f"{config} is not YAML ({error}). It is written by `fit`: was it edited?") from error
    return settings if isinstance(settings, dict) else {}


def model_card(
    name: str,
    lineage: Mapping[str, Any],
    settings: Mapping[str, Any],
    metrics: Mapping[str, str],
    license: str | None = None,
    language: str = "nan",
    *,
    adapter: bool = False,
    base_model: str | None = None,
    datasets: Sequence[str] = (),
) -> ModelCard:
    """The card: the Hub's YAML header and a page of Markdown, in which no foreign text becomes markup.

    Args:
        name: the model's.
        lineage: from lineage.json.
        settings: the resolved config of the run.
        metrics: from `training_report.fit_figures`.
        license: the base's; None takes what is known of it.
        language: ISO 639 code.
        adapter: the folder holds an adapter, not a whole model.
        base_model: the base's name on the Hub; None takes the lineage's, unless that is a folder.
        datasets: names on the Hub.
    """
    root = first_base(lineage)
    base_model = base_model or hub_name(root)
    terms = {"license": license} if license else license_of(base_model or root) or license_of(root)
    data = _header(terms, language, base_model, datasets, adapter)
    chosen = settings.get("data") or {}
    chat = (chosen.get("init_args") or {}).get("chat_template")
    questions = str(chosen.get("class_path", "")).endswith("SFTDataModule")
    labels = QUESTION_METRICS if questions else TEXT_METRICS
    measured = [(label, code(metrics[figure])) for figure, label in labels.items() if figure in metrics]
    trained = [(label, code(value)) for label, value in training_rows(settings)]
    tables = [
        ("Training of the last stage", "setting", trained),
        ("Measured during training", "metric", measured),
    ]
    spoken = plain(LANGUAGES.get(language, f"the language {language}"))
    what = "A LoRA adapter" if adapter else "A language model"
    origin = code(base_model or public_name(root))
    return ModelCard.from_template(  # type: ignore[no-any-return]
        data,
        template_str=TEMPLATE.read_text(encoding="utf-8"),
        title=plain(name),
        summary=f"{what} for {spoken}, made from {origin}"
        + (", taught to answer four-choice questions about a passage." if questions else "."),
        terms=_terms(
            plain(base_model or public_name(root)), terms.get("license_name") or terms.get("license")
        ),
        stages=stages(lineage),
        tables=[{"title": title, "left": left, "rows": rows} for title, left, rows in tables if rows],
        code=_use(name, public_name(str(lineage["base"].get("name"))) if adapter else None),
        prompt=_prompt((chosen.get("init_args") or {}).get("prompt") or {}) if questions else "",
        turn=" as a user's turn of its chat template" if chat else "",
    )


def _header(
    terms: Mapping[str, Any], language: str, base_model: str | None, datasets: Sequence[str], adapter: bool
) -> ModelCardData:
    """What the Hub reads."""
    taigi = ["taigi", "taiwanese-hokkien"] if language == "nan" else []
    relation = "adapter" if adapter else "finetune"
    return ModelCardData(
        language=[language],
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-generation",
        tags=["qlora", *(["lora"] if adapter else []), *taigi],
        base_model=base_model,
        datasets=list(datasets) or None,
        base_model_relation=relation if base_model else None,
        **terms,
    )


def _terms(root: str, license: str | None) -> str:
    """What one may do with the model, as far as the base decides it."""
    if not license:
        return (
            f"The licence of {root} is not known here: look it up, and name it before you share this model."
        )
    terms = f"The base's weights are under **{plain(license.upper())}**, which holds for this model too."
    if "-nc-" in license:
        terms += " That excludes commercial use; what you share must name the base and keep the same terms."
    return f"{terms} The terms of the texts it was trained on hold beside it."


def _use(name: str, base: str | None) -> str:
    """How to load the model, or the adapter onto its base."""
    loaded, variable = json.dumps(base or name, ensure_ascii=True), "base" if base else "model"
    lines = [
        *(["from peft import PeftModel"] if base else []),
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f"tokenizer = AutoTokenizer.from_pretrained({loaded})",
        f'{variable} = AutoModelForCausalLM.from_pretrained({loaded}, dtype="auto", device_map="auto")',
        *([f"model = PeftModel.from_pretrained(base, {json.dumps(name)})"] if base else []),
    ]
    return "\n".join(lines)


def _prompt(settings: Mapping[str, Any]) -> str:
    """What a model that was taught to answer is asked with."""
    prompt = question_prompt(settings)
    names = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    options = tuple(f"{{{name}}}" for name in names[: prompt.options])
    return prompt.render(Question("", "{passage}", "{question}", options, None, 0))


def card_command(
    folder: Path,
    license: str | None = None,
    language: str = "nan",
    base_model: str | None = None,
    datasets: list[str] = [],  # noqa: B006  (it becomes the command line's default)
) -> None:
    """Write README.md, the model card, into a finished model's folder and into its adapter's.

    Args:
        folder: the model's folder, as `fit` left it, or an adapter's.
        license: the base's licence, such as cc-by-nc-sa-4.0; without it, what is known of the base.
        language: ISO 639 code of the language the model was taught, such as hak.
        base_model: the base's name on the Hub, where the run started from a folder.
        datasets: names on the Hub of the data it was trained on, such as `[someone/corpus]`.
    """
    for path in write_model_cards(folder, license, language, base_model, datasets):
        print_line(str(path))

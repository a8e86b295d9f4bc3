"""README.md of a finished model: what it is, what it came from, what one may do with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from taigi_lightning.errors import InputError
from taigi_lightning.run_log import read_run_log
from taigi_lightning.run_report import fit_figures, lineage_rows, read_json

CARD = "README.md"
# The weights of these bases and of everything made from them; the Hub spells licences in lower case.
LICENSES = {"Bohanlu/Taigi-Llama-2": "cc-by-nc-sa-4.0", "meta-llama/Llama-2": "llama2"}


def write_model_card(folder: Path, license: str | None = None) -> Path:
    """Write `README.md` into a model's folder, aside first and then renamed.

    Args:
        folder: what `fit` left: lineage.json, config.yaml and logs are used where there are.
        license: the base's licence as the Hub spells it; None takes what is known of the base.

    Returns:
        the card's path.

    Raises:
        InputError: the folder holds no lineage.json, so nobody knows what the model came from.
    """
    lineage = read_json(folder / "lineage.json") or read_json(folder / "adapter" / "lineage.json")
    if lineage is None:
        raise InputError(
            f"{folder} holds no lineage.json, so it is not a model that `fit` finished. Give the folder after "
            "trainer.default_root_dir, for example models/final_model."
        )
    config = folder / "config.yaml"
    settings = yaml.safe_load(config.read_text(encoding="utf-8")) if config.is_file() else {}
    metrics = fit_figures(read_run_log(folder).metrics) if any(folder.glob("logs/**/metrics.csv")) else {}
    text = model_card(folder.name, lineage, settings, metrics, license)
    aside = folder / f"{CARD}.partial"
    aside.write_text(text, encoding="utf-8")
    aside.replace(folder / CARD)
    return folder / CARD


def model_card(
    name: str,
    lineage: Mapping[str, Any],
    settings: Mapping[str, Any],
    metrics: Mapping[str, str],
    license: str | None = None,
) -> str:
    """The card's text: the Hub's YAML header and a page of Markdown.

    Args:
        name: the model's.
        lineage: from lineage.json.
        settings: the resolved config of the run.
        metrics: from `run_report.fit_figures`.
        license: the base's; None takes what is known of it.
    """
    root = first_base(lineage)
    license = license or base_license(root)
    header: dict[str, Any] = {
        "language": ["nan"],
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["taigi", "taiwanese-hokkien", "qlora"],
    }
    if license:
        header["license"] = license
    if root.count("/") == 1 and not root.startswith("models/"):
        header |= {"base_model": root, "base_model_relation": "finetune"}
    terms = (
        f"The base's weights are under **{license.upper()}**, which holds for this model too."
        if license
        else f"The licence of {root} is not known here: look it up, and name it before you share this model."
    )
    if license and "-nc-" in license:
        terms += " That excludes commercial use; what you share must name the base and keep the same terms."
    sections = [
        f"# {name}",
        f"A language model for Taigi (Taiwanese Hokkien, 台語), made from `{root}`.",
        terms,
        _table("Lineage", ("", ""), lineage_rows(lineage)),
        _table("Training", ("setting", "value"), training_rows(settings)),
        _table("Metrics", ("metric", "value"), list(metrics.items())),
        "## Use\n\n```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'tokenizer = AutoTokenizer.from_pretrained("{name}")\n'
        f'model = AutoModelForCausalLM.from_pretrained("{name}", dtype="auto")\n```',
    ]
    yaml_header = yaml.safe_dump(header, allow_unicode=True, sort_keys=False)
    return f"---\n{yaml_header}---\n" + "\n\n".join(section for section in sections if section) + "\n"


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


def card_command(folder: Path, license: str | None = None) -> None:
    """Write README.md, the model card, into a finished model's folder.

    Args:
        folder: the model's folder, as `fit` left it.
        license: the base's licence, such as cc-by-nc-sa-4.0; without it, what is known of the base.
    """
    print(write_model_card(folder, license))

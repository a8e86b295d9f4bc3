"""The commands, what each does, and where those that are plain functions live."""

from __future__ import annotations

PROGRAM = "taigi-lightning"  # what pip installs
COMPLETION = "--print_completion"
# Run by LightningCLI.
COMMANDS = {
    "plan": "what a config will need of card, disk and time, before it runs",
    "fit": "train a stage: fit --config configs/cpt.yaml",
    "validate": "loss and perplexity on the held-out documents",
    "test": "accuracy on questions whose answers are known",
    "predict": "answer questions (configs/predict.yaml unless --config names another)",
}
# Plain functions: module, name, and what each does.
TOOLS = {
    "merge": ("taigi_lightning.cli.merge", "merge_command", "add an adapter to its 16-bit base"),
    "score": ("taigi_lightning.evaluation.scoring", "score_command", "predictions × answers → accuracy"),
    "compare": (
        "taigi_lightning.evaluation.compare",
        "compare_command",
        "several models on the same questions",
    ),
    "harness": (
        "taigi_lightning.evaluation.harness_task",
        "harness_command",
        "questions as a task of lm-evaluation-harness",
    ),
    "generate": ("taigi_lightning.cli.generate", "generate_command", "let a model write or answer"),
    "card": ("taigi_lightning.reports.model_card", "card_command", "write a finished model's README.md"),
    "upload": (
        "taigi_lightning.cli.upload",
        "upload_command",
        "send a finished model to the Hugging Face Hub",
    ),
    "demo": ("taigi_lightning.demo", "demo", "the whole thread on a tiny model, on a CPU"),
    "demo-real": (
        "taigi_lightning.demo_real",
        "demo_real",
        "both stages on SmolLM2 or Gemma 3 (extra: real)",
    ),
}

# What is said by its name alone: `--chat` is `--chat true`.
FLAGS = ("--chat", "--overwrite", "--private")


def with_flags(arguments: list[str]) -> list[str]:
    """The arguments with `true` after each of FLAGS that has no value.

    >>> with_flags(["models/a", "--chat", "--prompt", "b", "--overwrite"])
    ['models/a', '--chat', 'true', '--prompt', 'b', '--overwrite', 'true']
    """
    found: list[str] = []
    for place, argument in enumerate(arguments):
        found.append(argument)
        following = arguments[place + 1] if place + 1 < len(arguments) else None
        if argument in FLAGS and following not in ("true", "false"):
            found.append("true")
    return found


def usage() -> str:
    """The text of `--help`."""
    rows = [*COMMANDS.items(), *((name, text) for name, (_, _, text) in TOOLS.items())]
    lines = "\n".join(f"  {name:<9} {text}" for name, text in rows)
    head = "usage: python -m taigi_lightning COMMAND [options]"
    foot = f"COMMAND --help lists the options; {COMPLETION} shtab-bash prints a script for completion."
    return f"{head}\n\n{lines}\n\n{foot}\n"

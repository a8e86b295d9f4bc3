"""Modules that lay in one flat folder before 0.1.0 had folders: their old names go on working for one release.

Configs that earlier runs left name classes by them, such as `taigi_lightning.datamodules.CPTDataModule`.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

PACKAGE = "taigi_lightning"
MOVED = {
    "activation_plan": "planning.activation_plan",
    "adapters": "model.adapters",
    "announcement": "training.run_summary",
    "answers": "evaluation.answers",
    "artifacts": "training.wandb_artifacts",
    "attention": "fast_path.attention",
    "base_model": "model.base_model",
    "building": "evaluation.model_setup",
    "callbacks": "training.callbacks",
    "charts": "reports.svg_charts",
    "checkpoints": "training.checkpoints",
    "collating": "data.collate",
    "comparing": "evaluation.compare",
    "comparison_report": "evaluation.comparison_report",
    "completion": "cli.completion",
    "config_places": "cli.config_locations",
    "datamodules": "",  # the package itself has the classes of both stages
    "decoder_layer": "fast_path.decoder_layer",
    "disk": "planning.disk",
    "dropout_triton": "kernels.dropout_triton",
    "elementwise": "kernels.elementwise",
    "elementwise_triton": "kernels.elementwise_triton",
    "explanations": "cli.machine_errors",
    "exporting": "model.export",
    "fast_decoder": "fast_path.decoder",
    "few_shot": "tasks.few_shot",
    "general_path": "fast_path.fallback",
    "gguf_base": "model.gguf",
    "held_out": "tasks.validation_split",
    "held_out_answers": "evaluation.sample_answers",
    "held_out_sums": "training.validation_metrics",
    "held_out_text": "evaluation.sample_text",
    "identity": "model.lineage",
    "journal": "evaluation.journal",
    "loading": "data.dataloader",
    "lora_updates": "model.lora_deltas",
    "loss": "fast_path.cross_entropy",
    "loss_triton": "kernels.cross_entropy_triton",
    "memory": "planning.memory",
    "merging": "model.merge",
    "micro_batch": "fast_path.micro_batch",
    "model_card": "reports.model_card",
    "module": "training.module",
    "nearest": "cli.did_you_mean",
    "nf4_linear": "fast_path.nf4_linear",
    "nf4_triton": "kernels.nf4_triton",
    "norm_triton": "kernels.norm_triton",
    "offload": "fast_path.activation_offload",
    "option_orders": "evaluation.predictions",
    "packing": "data.packing",
    "perplexity": "evaluation.perplexity",
    "plan": "planning.training_needs",
    "plan_predict": "planning.prediction_needs",
    "plan_text": "planning.command",
    "predict_data": "data.predict",
    "predict_report": "reports.prediction_report",
    "prediction_writer": "evaluation.prediction_writer",
    "prefill": "fast_path.prefill",
    "progress": "training.progress_bar",
    "prompts": "tasks.prompts",
    "question_batches": "tasks.question_batches",
    "questions": "tasks.questions",
    "quieting": "cli.log_filters",
    "report_page": "reports.html_page",
    "retention": "model.merge_precision",
    "rotation_triton": "kernels.rope_triton",
    "run_log": "planning.run_log",
    "run_report": "reports.training_report",
    "run_settings": "planning.settings",
    "schedules": "training.lr_schedule",
    "scoring": "evaluation.scoring",
    "shards": "model.safetensors_files",
    "strategies": "training.distributed",
    "suggestions": "cli.config_errors",
    "tables": "tasks.question_files",
    "throughput": "training.throughput",
    "token_tree": "tasks.prefix_tree",
    "tokenizing": "data.tokenized_corpus",
    "wrong_values": "cli.value_errors",
}


class OldNames(MetaPathFinder, Loader):
    """Answers for an old name with the module that took its place, and says so once."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of an old name; None for all others."""
        package, _, name = fullname.rpartition(".")
        return ModuleSpec(fullname, self) if package == PACKAGE and name in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        """Let `sys.modules` hold the new module under the old name, which is what the import then returns."""
        new = f"{PACKAGE}.{MOVED[module.__name__.rpartition('.')[2]]}".rstrip(".")
        warnings.warn(f"{module.__name__} is now {new}.", FutureWarning, stacklevel=2)
        sys.modules[module.__name__] = import_module(new)

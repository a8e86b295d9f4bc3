"""What this project uses of other libraries that they do not promise to keep: each in one place, each with a test.

Where the library has a documented way, that is used instead. `tests/taigi_lightning/test_internals.py` holds each of
these to what is said here, and finds those that are not said; `make test-newest` runs it against the newest releases.
Others cannot live here, as they are hooks that a class overrides or settings of a library:

- Lightning: `ModelCheckpoint._monitor_candidates`, `_should_save_on_train_epoch_end`, `_save_on_train_epoch_end` in
  training/checkpoint_files.py; `LightningCLI._parse_ckpt_path`, `_instantiate_trainer`, `_get`, `_model_class` in
  cli/lightning_cli.py; `WeightAveraging._average_model` in training/averaging.py
- jsonargparse: `_paths.Path.read_text`, `_std_io` in windows.py; its wording, by which its refusals are told apart, in
  cli/class_errors.py, config_errors.py, value_errors.py
- transformers: `PreTrainedModel._from_config` and `PretrainedConfig._name_or_path` in model/base_model.py,
  `_from_config` and `_BaseAutoModelClass._model_mapping` in model/text_model.py,
  `Bnb4BitHfQuantizer._process_model_before_weight_loading`, `BitsAndBytesConfig._load_in_4bit` in
  model/packed_loading.py, `GradientCheckpointingLayer._gradient_checkpointing_func` in
  fast_path/checkpointed_layers.py, `PreTrainedModel._keys_to_ignore_on_load_missing`,
  `_keys_to_ignore_on_load_unexpected` in model/weight_check.py
- PEFT: `tuners_utils._check_lora_target_modules_mamba` in model/linear_targets.py
- PyTorch: `Module._apply` in kernels/host_memory.py, `DistributedDataParallel._ddp_params_and_buffers_to_ignore` in
  training/stage_model.py, `_IncompatibleKeys` and `Module._non_persistent_buffers_set` in training/trained_state.py,
  `Module._modules`, `_parameters`, `_buffers`, its four tables of hooks and those of all modules in
  fast_path/watched_modules.py, `_scaled_mm` in kernels/fp8.py, `aten._flash_attention_forward`,
  `_flash_attention_backward`, `_scaled_dot_product_cudnn_attention`, `_scaled_dot_product_cudnn_attention_backward` in
  fast_path/attention.py, `Tensor._version` in fast_path/shared_inputs.py, `torch._foreach_norm` and `_foreach_max` in
  fast_path/folded_updates.py
- datasets: `Dataset._fingerprint` in data/hub.py; sacrebleu: `Metric._compute_score_from_stats` in
  evaluation/text_scores.py; bitsandbytes: `nn.Linear4bit.support_avx512bf16_for_cpu` in model/base_model.py
"""

from __future__ import annotations

import os
from typing import Any


def run_seed() -> int | None:
    """The seed of `seed_everything`, which Lightning keeps in the environment for its processes; None without one."""
    seed = os.environ.get("PL_GLOBAL_SEED")
    return int(seed) if seed else None


def batches_taken(trainer: Any) -> int:
    """How many batches a Lightning trainer has taken in a run, before a resume too; the same on every rank."""
    return int(trainer.fit_loop.total_batch_idx)


def move_batches(trainer: Any, count: int) -> None:
    """Tell a Lightning trainer that the epoch it resumes is `count` batches further than its checkpoint says.

    An epoch has another number of batches where a run goes on with other ranks or another batch size.
    """
    current = trainer.fit_loop.epoch_loop.batch_progress.current
    for name in ("ready", "started", "processed", "completed"):
        setattr(current, name, getattr(current, name) + count)


def rewind_to_step(trainer: Any, checkpoint: dict[str, Any]) -> None:
    """Let a checkpoint that is saved within an accumulation window stand where the window began.

    The gradients so far are not in it, nor is a batch that an error broke off: a run that goes on from there would
    leave both out without a word. Where a loader's state does not say how many `batches` were taken, all is left as
    Lightning has it.

    Args:
        trainer: while it saves.
        checkpoint: what it will save, which is changed (2.6: the keys below `loops`).
    """
    progress, size = trainer.fit_loop.epoch_loop.batch_progress, trainer.accumulate_grad_batches
    begun = progress.current.ready
    last = progress.is_last_batch or begun == trainer.num_training_batches
    if progress.current.processed == begun and (begun % size == 0 or last):
        return
    state = checkpoint["loops"]["fit_loop"]
    loaders = state["state_dict"].get("combined_loader", [])
    if not loaders or any("batches" not in loader for loader in loaders):
        return
    start = (begun - 1) // size * size
    for loader in loaders:
        loader["batches"] = start
    saved = state["epoch_loop.batch_progress"]
    for part, place in (("current", start), ("total", saved["total"]["ready"] - begun + start)):
        saved[part] |= dict.fromkeys(("ready", "started", "processed", "completed"), place)
    saved["is_last_batch"] = False


def restore_loaders(trainer: Any) -> None:
    """Let a resumed epoch's loaders go on where the checkpoint stood, where Lightning has not done so.

    It restores them when it sets them up; but `estimated_stepping_batches` sets them up before, to count their batches
    (2.6: `FitLoop.setup_data`), and then an epoch begins again with its first batch.
    """
    loop = trainer.fit_loop
    if loop._combined_loader_states_to_load:
        loop._load_combined_loader_states()


def parser_options(parser: Any) -> list[str]:
    """The names of an argparse parser's options, `trainer.max_steps` and the like."""
    return [action.dest for action in parser._actions if action.option_strings]


def parser_positionals(parser: Any) -> list[str]:
    """The names of an argparse parser's positional arguments."""
    return [action.dest for action in parser._actions if not action.option_strings]

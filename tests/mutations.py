"""Forty planted errors, each of which a test must notice: `python -m tests.mutations` names the survivors.

Each error is planted alone in a copy of the project, and the tests that should notice run there. It survives if
they pass. `make test-slow` runs all of them; `python -m tests.mutations 3 17` runs two.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
COPIED = ("taigi_lightning", "corpus_tools", "tests", "configs", "pyproject.toml")


class Planted(NamedTuple):
    """An error: in a file, text that occurs once and what replaces it; the tests that should notice."""

    file: str
    text: str
    error: str
    tests: str


T, C = "taigi_lightning", "tests/taigi_lightning"
PLANTED = [
    # ---- data
    Planted(f"{T}/data/packing.py", "if index >= 0:", "if True:", f"{C}/data/test_packing.py"),
    Planted(f"{T}/data/packing.py", "position_ids[at : at + length] -= at", "pass", f"{C}/data/test_packing.py"),
    Planted(f"{T}/data/packing.py", "pieces -= supervised[packing.starts]", "pass", f"{C}/data/test_packing.py"),
    Planted(
        f"{T}/data/dataloader.py", "self._epoch_items(self.seed, self.epoch)", "self._epoch_items(self.seed, 0)",
        f"{C}/data/test_dataloader.py::test_the_order_depends_on_seed_and_epoch_alone",
    ),
    Planted(
        f"{T}/data/dataloader.py", "np.resize(~order, missing)", "np.resize(order, missing)",
        f"{C}/data/test_dataloader.py::test_every_row_is_in_one_batch_of_one_rank_and_ranks_are_even",
    ),
    Planted(
        f"{T}/data/dataloader.py", "tokens[: self.sampler.start] = 0", "pass",
        f"{C}/lightning/test_gradients.py::test_a_window_that_a_resumed_run_finishes_counts_what_is_left",
    ),
    Planted(
        f"{T}/data/dataloader.py", ".sum(axis=(1, 2))", "[:, 0].sum(axis=1)",
        f"{C}/lightning/test_gradients.py::test_windows_are_counted_over_all_ranks",
    ),
    # ---- questions
    Planted(
        f"{T}/tasks/questions.py", "question.options[rotation:] + question.options[:rotation]",
        "question.options[:rotation] + question.options[rotation:]", f"{C}/tasks/test_questions.py",
    ),
    Planted(
        f"{T}/tasks/prompts.py", "*prompt.ending[:end], *([IGNORE] * (len(prompt.ending) - end))]",
        "*([IGNORE] * len(prompt.ending))]", f"{C}/tasks/test_prompts.py",
    ),
    Planted(
        f"{T}/tasks/prompts.py", "[IGNORE] * len(prompt.input_ids)", "[*prompt.input_ids]",
        f"{C}/tasks/test_prompts.py",
    ),
    Planted(
        f"{T}/tasks/validation_split.py", '"".join(question.passage.split())', "question.id",
        f"{C}/tasks/test_validation_split.py",
    ),
    # ---- the model's computation
    Planted(
        f"{T}/fast_path/fallback.py", "group.dropout if training else 0.0", "0.0",
        f"{C}/fast_path/test_apply.py::test_their_dropout_is_that_of_the_config",
    ),
    Planted(
        f"{T}/fast_path/fallback.py", "group.dropout if training else 0.0", "group.dropout",
        f"{C}/fast_path/test_apply.py::test_their_dropout_is_that_of_the_config",
    ),
    Planted(
        f"{T}/fast_path/cross_entropy.py", "labels[:, 1:], (0, 1)", "labels[:, :-1], (1, 0)",
        f"{C}/fast_path/test_cross_entropy.py",
    ),
    Planted(
        f"{T}/fast_path/cross_entropy.py", "grad_hidden.mul_(grad.to(grad_hidden.dtype))", "pass",
        f"{C}/fast_path/test_cross_entropy.py",
    ),
    # ---- merging, lineage
    Planted(
        f"{T}/model/merge.py", "out.copy_(round_stochastically(total, start.dtype, generator))", "out.copy_(total)",
        f"{C}/model/test_merge.py::test_a_merge_rounds_stochastically",
    ),
    Planted(
        f"{T}/model/merge.py", "    check_lineage(adapter, base)\n", "",
        f"{C}/model/test_merge.py::test_a_merge_checks_the_adapters_lineage",
    ),
    Planted(
        f"{T}/model/merge.py", "torch.addmm(block.float(), left_block, right)",
        "torch.addmm(block.float(), left_block, right, alpha=0.5)",
        f"{C}/model/test_merge.py::test_merged_model_computes_what_base_and_adapter_compute",
    ),
    Planted(
        f"{T}/model/lineage.py", "and found.get(key) != wanted[key]", "and False",
        f"{C}/model/test_lineage.py",
    ),
    Planted(
        f"{T}/model/lineage.py", "_sha256(weights) != wanted", "False", f"{C}/model/test_lineage.py",
    ),
    Planted(
        f"{T}/model/safetensors_files.py", 'with safe_open(path, framework="np"):', 'with path.open("rb"):',
        f"{C}/model/test_base_model.py::test_a_shard_of_another_size_is_named",
    ),
    Planted(
        f"{T}/cli/merge.py", "if (output_dir / CONFIG).is_file() and not overwrite:", "if False:",
        f"{C}/cli/test_merge.py::test_the_command_takes_the_base_that_the_adapter_names",
    ),
    # ---- checkpoints and resume
    Planted(
        f"{T}/training/checkpoints.py", "if run is not None and not run.continues(saved.run, saved.step):", "if False:",
        f"{C}/training/test_checkpoints.py",
    ),
    Planted(
        f"{T}/training/checkpoints.py", 'elif fault := damage(saved.path):', 'elif fault := "":',
        f"{C}/training/test_checkpoints.py",
    ),
    Planted(
        f"{T}/training/checkpoints.py", "reverse=True", "reverse=False", f"{C}/training/test_checkpoints.py",
    ),
    Planted(
        f"{T}/training/run_identity.py", "count == len(self.starts) or step <= self.starts[count].step", "True",
        f"{C}/training/test_checkpoints.py",
    ),
    Planted(
        f"{T}/training/run_folder.py", "if found and not goes_on and not self.overwrite:", "if False:",
        f"{C}/training/test_run_folder.py::test_what_an_earlier_run_left_is_not_replaced_without_a_word",
    ),
    Planted(
        f"{T}/training/run_folder.py", "            lock.acquire()", "            pass",
        f"{C}/training/test_run_folder.py::test_two_at_once_are_refused",
    ),
    Planted(
        f"{T}/training/resume.py", "if name in then and name in now and then[name] != now[name]:", "if False:",
        f"{C}/training/test_resume.py::test_another_function_is_refused",
    ),
    Planted(
        f"{T}/training/resume.py", "        if name in wanted:", "        if False:",
        f"{C}/training/test_resume.py::test_everything_else_is_used_and_said",
    ),
    Planted(
        f"{T}/training/lr_schedule.py", "return rate * wanted / found if found else rate", "return rate",
        f"{C}/training/test_lr_schedule.py",
    ),
    Planted(
        f"{T}/training/lr_schedule.py", "yield from _follow_schedule(schedule)", "pass",
        f"{C}/training/test_lr_schedule.py",
    ),
    Planted(
        f"{T}/training/checkpoint_files.py", "return not self._measured_by_validation", "return False",
        f"{C}/training/test_checkpoint_files.py::test_a_save_in_an_epochs_last_step_exists",
    ),
    Planted(
        f"{T}/training/checkpoint_files.py", "found.pop(self.monitor, None)", "pass",
        f"{C}/training/test_checkpoint_files.py::test_each_save_is_scored_by_the_validation_after_it",
    ),
    Planted(
        f"{T}/training/checkpoint_files.py",
        "with written_aside(Path(path)) as aside, aside.open", "with Path(path).open",
        f"{C}/training/test_checkpoint_files.py::test_a_full_disk_leaves_nothing_under_the_checkpoints_name",
    ),
    # ---- the training step
    Planted(
        f"{T}/training/step_batches.py", 'max(1, batch["window_tokens"])', 'max(1, batch["supervised_tokens"])',
        f"{C}/lightning/test_gradients.py::test_accumulated_micro_batches_are_one_large_batch",
    ),
    Planted(
        f"{T}/training/trained_state.py", "if parameter.requires_grad or name in trains:", "if True:",
        f"{C}/training/test_module.py::test_a_checkpoint_holds_what_trains_and_loads_without_pickle",
    ),
    Planted(
        f"{T}/training/validation_metrics.py", "self.tokens += tokens", "self.tokens += 1",
        f"{C}/training/test_validation_metrics.py",
    ),
    # ---- predictions
    Planted(
        f"{T}/evaluation/journal.py", "if theirs == header:", "if True:", f"{C}/evaluation/test_journal.py",
    ),
    # ---- signals
    Planted(f"{T}/signals.py", "super().__init__(128 + number)", "super().__init__(0)", f"{C}/test_signals.py"),
]  # fmt: skip


def survives(planted: Planted) -> bool:
    """Whether the tests pass with an error planted in a copy of the project.

    Raises:
        RuntimeError: the tests could not run, which is no sign that they noticed.
    """
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name)
        for part in COPIED:
            copied = shutil.copytree if (ROOT / part).is_dir() else shutil.copyfile
            copied(ROOT / part, copy / part)
        file = copy / planted.file
        file.write_text(
            file.read_text(encoding="utf-8").replace(planted.text, planted.error), encoding="utf-8"
        )
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", planted.tests]
        environment = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
        run = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    if run.returncode not in (0, 1):  # 1: tests ran, and some failed
        raise RuntimeError(f"{planted.tests} did not run:\n{run.stdout[-2000:]}{run.stderr[-1000:]}")
    return run.returncode == 0


def main() -> int:
    """Plant the errors that the arguments number, or all; returns how many survive."""
    chosen = [int(number) for number in sys.argv[1:]] or range(len(PLANTED))
    survivors = []
    for number in chosen:
        planted = PLANTED[number]
        if survives(planted):
            survivors.append(number)
        print(
            f"{number:>2} {'SURVIVES' if number in survivors else 'noticed '} {planted.file}: {planted.error}",
            flush=True,
        )
    print(f"survivors: {', '.join(map(str, survivors)) or 'none'}, of {len(chosen)}")
    return len(survivors)


if __name__ == "__main__":
    sys.exit(main())

"""The LightningModule of every stage: a frozen base, usually in 4 bits, and what trains on top of it."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from jsonargparse.typing import ClosedUnitInterval, NonNegativeInt, OpenUnitInterval, PositiveFloat
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from taigi_lightning.errors import InputError
from taigi_lightning.evaluation.answers import Strategy, predict_batch
from taigi_lightning.evaluation.model_setup import working_place
from taigi_lightning.evaluation.predictions import Prediction
from taigi_lightning.fast_path.apply import forward_hidden
from taigi_lightning.fast_path.cross_entropy import linear_cross_entropy_sum
from taigi_lightning.fast_path.output_head import output_head
from taigi_lightning.kernels.matmul import Matmul
from taigi_lightning.model.adapters import LoraSettings
from taigi_lightning.model.base_model import Quantization
from taigi_lightning.model.hand_off import HandOff, Start, find_start
from taigi_lightning.model.new_tokens import NewTokens
from taigi_lightning.training.choices import check_choices
from taigi_lightning.training.lr_schedule import ScheduleName, configure_schedule, step_schedule
from taigi_lightning.training.module_callbacks import module_callbacks
from taigi_lightning.training.optimizer import make_optimizer
from taigi_lightning.training.promised_parameters import keep_promises, model_parameters
from taigi_lightning.training.resume import plain_arguments
from taigi_lightning.training.stage_model import (
    NO_COPIES,
    able_trainer,
    attached_trainer,
    check_loaded,
    expect_own_model,
    hold_weights,
    make_model,
    place_of,
    print_lines,
    run_model,
    what_trains,
)
from taigi_lightning.training.step_batches import begin_batch, counted, expect_tokens, share_of_window
from taigi_lightning.training.throughput import batch_tokens, flops_per_token
from taigi_lightning.training.trained_state import freeze, load_trained, model_state, thaw, trained_state
from taigi_lightning.training.validation_metrics import HeldOutSums
from taigi_lightning.training.vocabulary import Vocabulary

Batch = dict[str, Any]


class CausalLMModule(pl.LightningModule):
    """A causal language model in training or at work.

    Batches of `fit` and `validate` are dicts of `input_ids`, `labels` and `position_ids`, each [B, T] int64:
    a label is -100 where nothing is learnt, and not shifted; positions begin at 0 again with each document,
    which attends only to itself. Where questions are held out, or are predicted, a batch is a `QuestionBatch`.

    Args:
        base: a model folder, or the name of one on the Hub.
        lora: the adapter to train; null trains or uses the base as it is.
        adapter: a saved adapter to continue from or predict with; its own rank and scale count, and `lora`'s dropout.
        new_tokens: words that become one token each, whose embeddings train beside LoRA.
        quantization: "nf4" for 4-bit weights with double quantisation, "none" for the weights as they are.
        from_scratch: random float32 weights in the base's architecture, all of them trained.
        optimizer: any torch optimizer; it gets the trainable parameters alone.
        lr_scheduler: the learning rate's schedule after the warm-up; or a class of torch's, which has no warm-up.
        warmup_steps: optimizer steps over which the learning rate rises from zero; 0.05: over 5 % of the run's.
        lora_plus_ratio: how many times A's learning rate B's is (LoRA+); null trains both at one.
        compile: compute the small operations in fused GPU kernels; null does so on a GPU.
        activation_budget: share of the activations kept for backward, the rest being moved to the host or
            computed again; auto fills the GPU's free memory, with unpacked weights where all of them fit.
        weights_on_host: layers whose 4-bit weights wait in host memory; auto: as costs least time, none if all fits.
        packed_cache: a folder that keeps the base's 4-bit weights, so that the next start need not pack them.
        matmul: of frozen 4-bit weights. int8_backward: gradients' products in 8 bits; int8: all; int8_mixed: all, but
            for each input's 64 strongest directions. fp8: less exact.
        answer_strategy: how `predict` and `test` answer: compare four probabilities, or generate text.
        hand_off: what a merged model that was trained in 4 bits is in 4 bits again. stack: its own base in 4 bits
            with its adapter frozen beside it, exactly what was trained; continue: the same, and that adapter
            trains on; merge: the merged weights, quantised a second time. A saved adapter brings its own.

    Raises:
        InputError: the base or the adapter is not there, an option is misspelt, or options exclude each other.
    """

    def __init__(
        self,
        base: str = "Bohanlu/Taigi-Llama-2-13B",
        lora: LoraSettings | None = None,
        adapter: str | None = None,
        new_tokens: NewTokens | None = None,
        quantization: Quantization = "nf4",
        from_scratch: bool = False,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: ScheduleName | LRSchedulerCallable = "cosine",
        warmup_steps: NonNegativeInt | OpenUnitInterval = 0,
        lora_plus_ratio: PositiveFloat | None = None,
        compile: bool | None = None,
        activation_budget: ClosedUnitInterval | Literal["auto"] = "auto",
        weights_on_host: NonNegativeInt | Literal["auto", "all", "none"] = "auto",
        packed_cache: str | None = None,
        matmul: Matmul = "bf16",
        answer_strategy: Strategy = "choice",
        hand_off: HandOff = "stack",
    ) -> None:
        super().__init__()
        lora = LoraSettings(**lora) if isinstance(lora, dict) else lora  # as hparams have it
        self.save_hyperparameters(plain_arguments(check_choices(CausalLMModule.__init__, locals())))
        what = what_trains(base, adapter, lora, quantization, hand_off, from_scratch)
        self.base, self.adapter, self.lora = what
        self.vocabulary = Vocabulary(new_tokens, self.lora, self.adapter)
        self.quantization, self.from_scratch, self.hand_off = quantization, from_scratch, hand_off
        self.weights_on_host, self.packed_cache = weights_on_host, packed_cache
        self.answer_strategy: Strategy = answer_strategy
        self.optimizer, self.lr_scheduler, self.warmup_steps = optimizer, lr_scheduler, warmup_steps
        self.compile_layers, self.activation_budget, self.matmul = compile, activation_budget, matmul
        self.lora_plus_ratio = lora_plus_ratio
        self.strict_loading = False  # a checkpoint holds what trains alone (see state_dict)
        self.model: Any = None
        self.learning_rate: float | None = None  # in place of the optimizer's own; `Tuner.lr_find` sets it
        self.validated = False  # since a schedule that waits for validations took a step
        self._tokens, self.made_to_train = 0, False  # of the batch at work; how the model was made
        self.trained_names: frozenset[str] = frozenset()  # names of the model's parameters that do
        self._waiting: dict[str, Tensor] = {}  # what was loaded before there is a model
        self.window_loss: Tensor | None = None  # of the accumulation window so far; `StepMetrics` logs it
        self._held_out = HeldOutSums()

    def configure_model(
        self,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        training: bool | None = None,
    ) -> None:
        """Load the base and attach the adapter; Lightning calls this before every stage, you may without a trainer.

        A model that was made for another stage is made anew to train, with what was trained of it: `fit` after
        `validate` or `predict` trains as `fit` alone does.

        Args:
            device: where the model goes without a trainer; None: the GPU, if there is one.
            dtype: what it computes in without a trainer; None: float32 on a CPU, 16 bits on a GPU.
            training: make it to train, for a loop of your own or Fabric's; None: what the trainer says, else not.

        Raises:
            InputError: the model cannot be made, or the trainer's strategy would not train it correctly.
        """
        trainer = attached_trainer(self)
        place, computing = working_place(device, dtype) if trainer is None else place_of(trainer)
        if training is None:
            training = trainer is not None and bool(trainer.training)
        if self.model is not None and (self.made_to_train or not training):
            self.model.train(training)
            return
        expect_own_model(self)
        strict = bool(self._waiting)  # all of it has to find its place
        trained, self._waiting = self.state_dict(), {}
        self.model = None  # before the next one takes its memory
        self.model = make_model(self, place, computing, training)
        self.trained_names = frozenset(name for name, p in self.named_parameters() if p.requires_grad)
        self.made_to_train = training
        self.load_state_dict(trained, strict)
        keep_promises(self)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The base's tokenizer, with new tokens where there are some, read when first needed."""
        return self.vocabulary.tokenizer(self.base)

    def configure_callbacks(self) -> list[Callback]:
        """What compares settings on resume, logs each step, and lets optimizers and averages show their weights.

        Raises:
            InputError: the trainer, or one of its callbacks, cannot do here what it is for.
        """
        return module_callbacks(able_trainer(self).callbacks)  # type: ignore[attr-defined]

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """The user's optimizer over the trainable parameters, its rate set anew at every step."""
        rates = self.lora_plus_ratio, self.learning_rate, self.vocabulary.rate
        optimizer = make_optimizer(self.optimizer, dict(self.named_parameters()), *rates)
        steps = self.trainer.estimated_stepping_batches
        schedule = configure_schedule(self.lr_scheduler, optimizer, self.warmup_steps, steps)
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Let the schedule go on; a ReduceLROnPlateau once for each validation (see `step_schedule`)."""
        if step_schedule(scheduler, metric, self.validated):
            self.validated = False

    print, parameters, forward, freeze, unfreeze = print_lines, model_parameters, run_model, freeze, thaw

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed dropout by the batch's number; say what memory is taken."""
        begin_batch(self.trainer, self.model, self.global_rank)

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Count supervised tokens and find documents while the batch is on the CPU: on a GPU, both would wait."""
        found: Batch = counted(batch)
        self._tokens = batch_tokens(found)
        return found

    @property
    def flops_per_batch(self) -> int:
        """FLOPs of the batch at work, as Lightning's ThroughputMonitor asks; see `throughput.flops_per_token`."""
        return self._tokens * flops_per_token(self.model, self.training)

    def loss_sum(self, batch: Batch) -> Tensor:
        """Summed cross-entropy of a batch.

        Args:
            batch: `input_ids`, `labels`, `position_ids`, each [B, T] int64.

        Returns:
            float32 scalar in nats: the sum, over every label that is not -100, of -log p(label).

        Raises:
            InputError: it is another kind of batch.
        """
        batch = expect_tokens(batch)
        places = batch["position_ids"], batch["documents"]
        hidden = forward_hidden(self.model, batch["input_ids"], *places)  # [B, T, H]
        return linear_cross_entropy_sum(hidden, output_head(self.model), batch["labels"])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """A micro-batch's share of the mean loss over all supervised tokens of its accumulation window and ranks.

        The loader says how many those are (`window_tokens`). Lightning divides what is returned by
        `accumulate_grad_batches`, and DDP averages over the ranks: both are undone here, so that the gradients are
        those of one batch with all the tokens, whichever hooks a subclass overrides. A batch without
        `window_tokens`, of a loader of your own, is weighed as Lightning weighs any: by its own mean. Without a
        trainer, or under Fabric, it is the share itself, whose gradients you add up.

        Returns:
            float32 scalar in nats a token: `accumulate_grad_batches` times the share.
        """
        share, accumulated = share_of_window(self, batch)
        self.window_loss = share.detach() + (0.0 if self.window_loss is None else self.window_loss)
        return share * accumulated

    def on_validation_epoch_start(self) -> None:
        """Begin the sums of one pass over the held-out data."""
        self._held_out = HeldOutSums()

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add a batch to the held-out loss, or a batch of questions to the accuracy."""
        self._held_out.add_batch(self, batch)

    def on_validation_epoch_end(self) -> None:
        """Log loss, perplexity and accuracy over every held-out token and question of every rank."""
        for name, value in self._held_out.metrics(self.device).items():
            self.log(name, value, prog_bar=name in ("val/loss", "val/accuracy"))

    def predict_step(self, batch: Any, batch_idx: int) -> list[Prediction]:
        """Answer a batch of questions."""
        return predict_batch(self.model, self.tokenizer, batch, self.answer_strategy)

    test_step: Any = predict_step  # `AnswerReport` scores the answers
    on_predict_start, on_test_start = hold_weights, hold_weights

    def state_dict(self, *args: Any, **options: Any) -> dict[str, Any]:  # type: ignore[override]
        """The trainable parameters alone: the base is on disk already, and 4-bit weights do not change."""
        return trained_state(self, self.trained_names, self._waiting, **options)

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """What `state_dict` gives, to which `strict` refers: the base is not missing. It waits for a model to come."""
        if self.model is None:
            self._waiting, strict = model_state(state_dict), False
        return load_trained(super().load_state_dict, state_dict, self.trained_names, strict, assign)

    @cached_property
    def start(self) -> Start:
        """Whose weights are loaded, and what stays beside them; found once a run."""
        return find_start(self.base, self.quantization, self.hand_off, self.adapter)

    @property
    def identity(self) -> dict[str, str]:
        """What the base is: name, hashes, quantisation."""
        return dict(self.start.identity)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record which base the trained weights belong to."""
        checkpoint["base_identity"] = self.identity

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint that is damaged, or of another base or adapter shape; see `check_loaded`."""
        check_loaded(self, checkpoint)

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and copy.deepcopy, which are refused where the model is there already."""
        if self.model is not None:
            raise InputError(NO_COPIES)
        return super().__getstate__()

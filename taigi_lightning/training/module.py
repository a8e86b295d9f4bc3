"""The LightningModule of every stage: a frozen base, usually in 4 bits, and what trains on top of it."""

from __future__ import annotations

import os
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from jsonargparse.typing import ClosedUnitInterval, NonNegativeInt
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from transformers import PreTrainedTokenizerBase, get_scheduler

from taigi_lightning.errors import InputError
from taigi_lightning.evaluation.answers import Strategy, choice_accuracy_batch, predict_batch
from taigi_lightning.evaluation.predictions import Prediction
from taigi_lightning.fast_path.apply import expect_state, forward_hidden
from taigi_lightning.fast_path.attention import find_documents
from taigi_lightning.fast_path.cross_entropy import linear_cross_entropy_sum
from taigi_lightning.fast_path.output_head import output_head
from taigi_lightning.model.adapters import LoraSettings, adapter_settings, check_adapter
from taigi_lightning.model.base_model import Quantization, check_base, load_tokenizer
from taigi_lightning.model.hand_off import HandOff, Start, continued, find_start
from taigi_lightning.model.lineage import check_identity
from taigi_lightning.planning.memory import coming_state_bytes
from taigi_lightning.tasks.prompts import IGNORE
from taigi_lightning.tasks.question_batches import QuestionBatch
from taigi_lightning.training.checkpoints import check_trained, check_whole
from taigi_lightning.training.model_setup import build_model, compute_dtype, take_fast_path
from taigi_lightning.training.resume import CompareSettings
from taigi_lightning.training.step_metrics import StepMetrics
from taigi_lightning.training.validation_metrics import HeldOutSums

Batch = dict[str, Any]


class CausalLMModule(pl.LightningModule):
    """A causal language model in training or at work.

    Batches of `fit` and `validate` are dicts of `input_ids`, `labels` and `position_ids`, each [B, T] int64:
    a label is -100 where nothing is learnt, and not shifted; positions begin at 0 again with each document,
    which attends only to itself. Where questions are held out, or are predicted, a batch is a `QuestionBatch`.

    Args:
        base: a model folder, or the name of one on the Hub.
        lora: the adapter to train; null trains or uses the base as it is.
        adapter: a saved adapter to continue from or predict with; its own rank and scale count.
        quantization: "nf4" for 4-bit weights with double quantisation, "none" for the weights as they are.
        from_scratch: random float32 weights in the base's architecture, all of them trained.
        optimizer: any torch optimizer; it gets the trainable parameters alone.
        lr_scheduler: the learning rate's course over the run after the warm-up.
        warmup_steps: optimizer steps over which the learning rate rises from zero.
        compile: compute the small operations in fused GPU kernels; null does so on a GPU.
        activation_budget: share of the activations kept for backward, the rest being moved to the host or
            computed again; auto fills the GPU's free memory, with unpacked weights where all of them fit.
        answer_strategy: how `predict` and `test` answer: compare four probabilities, or generate text.
        hand_off: what a merged model that was trained in 4 bits is in 4 bits again. stack: its own base in 4 bits
            with its adapter frozen beside it, exactly what was trained; continue: the same, and that adapter
            trains on; merge: the merged weights, quantised a second time. A saved adapter brings its own.

    Raises:
        InputError: the base or the adapter is not there, or options exclude each other.
    """

    def __init__(
        self,
        base: str = "Bohanlu/Taigi-Llama-2-13B",
        lora: LoraSettings | None = None,
        adapter: str | None = None,
        quantization: Quantization = "nf4",
        from_scratch: bool = False,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: Literal["linear", "cosine", "constant_with_warmup"] = "cosine",
        warmup_steps: NonNegativeInt = 0,
        compile: bool | None = None,
        activation_budget: ClosedUnitInterval | Literal["auto"] = "auto",
        answer_strategy: Strategy = "choice",
        hand_off: HandOff = "stack",
    ) -> None:
        super().__init__()
        check_base(base)
        if adapter is not None:
            check_adapter(adapter)
        elif hand_off == "continue":
            base, adapter = continued(base, quantization) or (base, None)
        if quantization == "nf4" and from_scratch:
            raise InputError(
                "Random weights cannot train in 4 bits: set quantization to none with from_scratch."
            )
        if from_scratch and (lora is not None or adapter is not None):
            raise InputError("An adapter on random weights means nothing: leave lora and adapter out.")
        self.base = base
        self.lora = adapter_settings(adapter) if adapter else lora
        self.adapter = adapter
        self.quantization: Quantization = quantization
        self.from_scratch = from_scratch
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.warmup_steps = warmup_steps
        self.compile_layers = compile
        self.activation_budget = activation_budget
        self.answer_strategy: Strategy = answer_strategy
        self.hand_off: HandOff = hand_off
        # A checkpoint holds what trains, and nothing else (see state_dict).
        self.strict_loading = False
        self.model: Any = None
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._start: Start | None = None
        self.window_loss: Tensor | None = None  # of the accumulation window so far; `StepMetrics` logs it
        self._weighs_batches_equally = False
        self._held_out = HeldOutSums()

    # ---- building ---------------------------------------------------------------------------------

    def configure_model(self) -> None:
        """Load the base and attach the adapter, once; Lightning calls this before every stage."""
        if self.model is not None:
            return
        device, training = self.trainer.strategy.root_device, self.trainer.training
        self.base = self.start.base
        model = build_model(
            self.start.weights,
            updates=self.start.updates,
            lora=self.lora,
            adapter=self.adapter,
            quantization=self.quantization,
            from_scratch=self.from_scratch,
            compute_dtype=compute_dtype(str(self.trainer.precision)),
            device=device,
            training=training,
        )
        data: Any = getattr(self.trainer, "datamodule", None)
        generates = self.answer_strategy == "generate" and not training
        findings = take_fast_path(
            model,
            device=device,
            training=training,
            compile=self.compile_layers,
            activation_budget=self.activation_budget,
            compute_dtype=compute_dtype(str(self.trainer.precision)),
            answers=not training or bool(getattr(data, "held_out", None)),
            generating=self.tokenizer if generates else None,
            row_tokens=None if generates else getattr(data, "batch_tokens", 32768),
        )
        if findings.packing and getattr(data, "packing", False):
            data.stop_packing()
            self.print(findings.packing)
        for found in (findings.sharing, findings.padding):
            if found:
                self.print(found)
        self.model = model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The base's tokenizer, read when first needed."""
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self.base)
        return self._tokenizer

    def configure_callbacks(self) -> list[Callback]:
        """What compares a resumed run's settings with its checkpoint's, and what logs each optimizer step."""
        return [CompareSettings(), StepMetrics()]

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """The user's optimizer over the trainable parameters, its rate set anew at every step."""
        try:
            optimizer = self.optimizer(p for p in self.parameters() if p.requires_grad)
        except ValueError as error:
            raise InputError(f"The optimizer refuses its settings under model.optimizer: {error}.") from error
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = get_scheduler(self.lr_scheduler, optimizer, self.warmup_steps, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # ---- training ---------------------------------------------------------------------------------

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed dropout from the run's seed, the rank and the batch's number alone; say what memory is taken.

        So a resumed run draws what the unbroken one drew, however often either validated in between.
        """
        seed = int(os.environ.get("PL_GLOBAL_SEED", "0"))
        number = self.trainer.fit_loop.total_batch_idx
        torch.manual_seed((seed * 1_000_003 + self.global_rank) * 1_000_003 + number)
        expect_state(self.model, sum(map(coming_state_bytes, self.trainer.optimizers)))

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Count supervised tokens and find documents while the batch is on the CPU: on a GPU, both would wait."""
        if isinstance(batch, dict) and "labels" in batch:
            supervised = int((batch["labels"][:, 1:] != IGNORE).sum())
            documents = find_documents(batch["position_ids"])
            batch = {**batch, "supervised_tokens": supervised, "documents": documents}
        return batch

    def loss_sum(self, batch: Batch) -> Tensor:
        """Summed cross-entropy of a batch.

        Args:
            batch: `input_ids`, `labels`, `position_ids`, each [B, T] int64; perhaps their `documents`.

        Returns:
            float32 scalar in nats: the sum, over every label that is not -100, of -log p(label).
        """
        places = batch["position_ids"], batch.get("documents")
        hidden = forward_hidden(self.model, batch["input_ids"], *places)  # [B, T, H]
        return linear_cross_entropy_sum(hidden, output_head(self.model), batch["labels"])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """A micro-batch's share of the mean loss over all supervised tokens of its accumulation window and ranks.

        The loader says how many those are (`window_tokens`). Lightning divides what is returned by
        `accumulate_grad_batches`, and DDP averages over the ranks: both are undone here, so that the gradients are
        those of one batch with all the tokens, whichever hooks a subclass overrides. A batch without
        `window_tokens`, of a loader of your own, is weighed as Lightning weighs any: by its own mean.

        Returns:
            float32 scalar in nats a token: `accumulate_grad_batches` times the share.
        """
        accumulated = self.trainer.accumulate_grad_batches
        loss = self.loss_sum(batch)
        if "window_tokens" in batch:
            share: Tensor = loss * (self.trainer.world_size / max(1, batch["window_tokens"]))
        else:
            self._say_how_batches_weigh()
            share = loss / (max(1, batch["supervised_tokens"]) * accumulated)
        self.window_loss = share.detach() + (0.0 if self.window_loss is None else self.window_loss)
        return share * accumulated

    def _say_how_batches_weigh(self) -> None:
        several = self.trainer.accumulate_grad_batches > 1 or self.trainer.world_size > 1
        if several and not self._weighs_batches_equally:
            self.print(
                "The batches hold no window_tokens, so every micro-batch weighs the same, however many supervised "
                "tokens it has, as is Lightning's rule. CPTDataModule and SFTDataModule weigh tokens."
            )
            self._weighs_batches_equally = True

    # ---- validation, prediction -------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Begin the sums of one pass over the held-out data."""
        self._held_out = HeldOutSums()

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add a batch to the held-out loss, or a batch of questions to the accuracy."""
        if isinstance(batch, QuestionBatch):
            self._held_out.add_answers(*choice_accuracy_batch(self.model, batch))
        else:
            self._held_out.add_loss(self.loss_sum(batch), batch["supervised_tokens"])

    def on_validation_epoch_end(self) -> None:
        """Log loss, perplexity and accuracy over every held-out token and question of every rank."""
        for name, value in self._held_out.metrics(self.device).items():
            self.log(name, value, prog_bar=name != "val/perplexity")

    def predict_step(self, batch: Any, batch_idx: int) -> list[Prediction]:
        """Answer a batch of questions."""
        return predict_batch(self.model, self.tokenizer, batch, self.answer_strategy)

    def test_step(self, batch: Any, batch_idx: int) -> Any:
        """Answer a batch of questions; `AnswerReport` scores them."""
        return predict_batch(self.model, self.tokenizer, batch, self.answer_strategy)

    # ---- checkpoints ------------------------------------------------------------------------------

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """The trainable parameters alone: the base is on disk already, and 4-bit weights do not change."""
        return {name: p.detach() for name, p in self.named_parameters() if p.requires_grad}

    @property
    def start(self) -> Start:
        """Whose weights are loaded, and what stays beside them; found once a run."""
        if self._start is None:
            self._start = find_start(self.base, self.quantization, self.hand_off, self.adapter)
        return self._start

    @property
    def identity(self) -> dict[str, str]:
        """What the base is: name, hashes, quantisation."""
        return dict(self.start.identity)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record which base the trained weights belong to."""
        checkpoint["base_identity"] = self.identity

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint that is damaged, or of another base or adapter shape, which loading would not notice.

        Raises:
            InputError: its bytes changed, or the base or the trained parameters differ from the checkpoint's.
        """
        if (
            self._trainer is not None
            and self._trainer.ckpt_path
            and "://" not in str(self._trainer.ckpt_path)
        ):
            check_whole(self._trainer.ckpt_path)
        check_identity(found=self.identity, wanted=checkpoint.get("base_identity", {}))
        check_trained(checkpoint["state_dict"], dict(self.named_parameters()))

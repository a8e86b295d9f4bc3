"""The LightningModule of every stage: a frozen base, usually in 4 bits, and what trains on top of it."""

from __future__ import annotations

import os
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from jsonargparse.typing import ClosedUnitInterval, NonNegativeInt, PositiveFloat
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from taigi_lightning.errors import InputError
from taigi_lightning.evaluation.answers import Strategy, choice_accuracy_batch, predict_batch
from taigi_lightning.evaluation.model_setup import compute_dtype, working_place
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
from taigi_lightning.training.distributed import check_strategy
from taigi_lightning.training.lr_schedule import ScheduleName, configure_schedule
from taigi_lightning.training.optimizer import make_optimizer
from taigi_lightning.training.resume import CompareSettings, plain_arguments
from taigi_lightning.training.stage_model import check_callbacks, check_from_scratch, make_model
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
        lr_scheduler: the learning rate's schedule after the warm-up; or a class such as
            torch.optim.lr_scheduler.StepLR, which steps with the optimizer and has no warm-up.
        warmup_steps: optimizer steps over which the learning rate rises from zero.
        lora_plus_ratio: how many times A's learning rate B's is (LoRA+); null trains both at one.
        compile: compute the small operations in fused GPU kernels; null does so on a GPU.
        activation_budget: share of the activations kept for backward, the rest being moved to the host or
            computed again; auto fills the GPU's free memory, with unpacked weights where all of them fit.
        weights_on_host: layers whose 4-bit weights wait in host memory; auto: as costs least time, none if all fits.
        packed_cache: a folder that keeps the base's 4-bit weights, so that the next start need not pack them.
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
        lr_scheduler: ScheduleName | LRSchedulerCallable = "cosine",
        warmup_steps: NonNegativeInt = 0,
        lora_plus_ratio: PositiveFloat | None = None,
        compile: bool | None = None,
        activation_budget: ClosedUnitInterval | Literal["auto"] = "auto",
        weights_on_host: NonNegativeInt | Literal["auto", "all", "none"] = "auto",
        packed_cache: str | None = None,
        answer_strategy: Strategy = "choice",
        hand_off: HandOff = "stack",
    ) -> None:
        super().__init__()
        lora = LoraSettings(**lora) if isinstance(lora, dict) else lora  # as hparams have it
        self.save_hyperparameters(plain_arguments(locals()))
        check_base(base)
        if adapter is not None:
            check_adapter(adapter)
        elif hand_off == "continue":
            base, adapter = continued(base, quantization) or (base, None)
        if from_scratch:
            check_from_scratch(quantization, adapted=lora is not None or adapter is not None)
        self.base = base
        self.lora = adapter_settings(adapter) if adapter else lora
        self.adapter = adapter
        self.quantization: Quantization = quantization
        self.from_scratch = from_scratch
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.warmup_steps = warmup_steps
        self.lora_plus_ratio = lora_plus_ratio
        self.compile_layers, self.activation_budget = compile, activation_budget
        self.weights_on_host, self.packed_cache = weights_on_host, packed_cache
        self.answer_strategy: Strategy = answer_strategy
        self.hand_off: HandOff = hand_off
        self.strict_loading = False  # a checkpoint holds what trains alone (see state_dict)
        self.model: Any = None
        self._made_to_train = False
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._start: Start | None = None
        self.window_loss: Tensor | None = None  # of the accumulation window so far; `StepMetrics` logs it
        self._held_out = HeldOutSums()

    # ---- building ---------------------------------------------------------------------------------

    def configure_model(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        """Load the base and attach the adapter; Lightning calls this before every stage, you may without a trainer.

        A model that was made for another stage is made anew to train, with what was trained of it: `fit` after
        `validate` or `predict` trains as `fit` alone does.

        Args:
            device: where the model goes without a trainer; None: the GPU, if there is one.
            dtype: what it computes in without a trainer; None: float32 on a CPU, 16 bits on a GPU.

        Raises:
            InputError: the model cannot be made, or the trainer's strategy would not train it correctly.
        """
        trainer = self._trainer
        training = trainer is not None and bool(trainer.training)
        if self.model is not None and (self._made_to_train or not training):
            self.model.train(training)
            return
        trained = {} if self.model is None else self.state_dict()
        self.model = None  # before the next one takes its memory
        if trainer is not None:
            check_strategy(trainer.strategy)
            check_callbacks(trainer.callbacks)  # type: ignore[attr-defined]
            device, dtype = trainer.strategy.root_device, compute_dtype(str(trainer.precision))
        place, computing = working_place(device, dtype)
        self.model = make_model(self, place, computing, training)
        self._made_to_train = training
        self.load_state_dict(trained, strict=False)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The base's tokenizer, read when first needed."""
        self._tokenizer = self._tokenizer or load_tokenizer(self.base)
        return self._tokenizer

    def configure_callbacks(self) -> list[Callback]:
        """What compares a resumed run's settings with its checkpoint's, and what logs each optimizer step."""
        return [CompareSettings(), StepMetrics()]

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """The user's optimizer over the trainable parameters, its rate set anew at every step."""
        optimizer = make_optimizer(self.optimizer, dict(self.named_parameters()), self.lora_plus_ratio)
        steps = self.trainer.estimated_stepping_batches
        schedule = configure_schedule(self.lr_scheduler, optimizer, self.warmup_steps, steps)
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """What the causal language model's own forward does: `module(input_ids).logits`."""
        if self.model is None:
            raise InputError("The model is not there yet: call module.configure_model() first.")
        return self.model(*inputs, **options)

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
            share = loss / (max(1, batch["supervised_tokens"]) * accumulated)
        self.window_loss = share.detach() + (0.0 if self.window_loss is None else self.window_loss)
        return share * accumulated

    def on_validation_epoch_start(self) -> None:
        """Begin the sums of one pass over the held-out data."""
        self._held_out = HeldOutSums()

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add a batch to the held-out loss, or a batch of questions to the accuracy."""
        if isinstance(batch, QuestionBatch):
            self._held_out.add_answers(*choice_accuracy_batch(self.model, batch))
        else:
            self._held_out.add_loss(self.loss_sum(batch), batch["supervised_tokens"], batch.get("source"))

    def on_validation_epoch_end(self) -> None:
        """Log loss, perplexity and accuracy over every held-out token and question of every rank."""
        for name, value in self._held_out.metrics(self.device).items():
            self.log(name, value, prog_bar=name in ("val/loss", "val/accuracy"))

    def predict_step(self, batch: Any, batch_idx: int) -> list[Prediction]:
        """Answer a batch of questions."""
        return predict_batch(self.model, self.tokenizer, batch, self.answer_strategy)

    def test_step(self, batch: Any, batch_idx: int) -> Any:
        """Answer a batch of questions; `AnswerReport` scores them."""
        return predict_batch(self.model, self.tokenizer, batch, self.answer_strategy)

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
        if self.model is None:  # load_from_checkpoint, which has no trainer
            self.configure_model()
        path = str(getattr(self._trainer, "ckpt_path", None) or "")
        if path and "://" not in path:
            check_whole(path)
        check_identity(found=self.identity, wanted=checkpoint.get("base_identity", {}))
        check_trained(checkpoint["state_dict"], dict(self.named_parameters()))

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and copy.deepcopy, which are refused where the model is there already."""
        if self.model is not None:
            raise InputError(
                "A CausalLMModule whose model is loaded can be neither pickled nor copied: its layers share 4-bit "
                "weights and compiled operations. Copy it before configure_model, or save a checkpoint and give it to "
                "CausalLMModule.load_from_checkpoint."
            )
        return super().__getstate__()

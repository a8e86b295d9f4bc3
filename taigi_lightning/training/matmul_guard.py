"""A watch on products in 8 bits: a run's first steps are computed in 16 bits too, and what differs is said."""

from __future__ import annotations

import math
import statistics
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from taigi_lightning.fast_path.apply import compute_in, fast_decoder
from taigi_lightning.fast_path.strong_directions import FEWEST, MOST
from taigi_lightning.kernels.matmul import Matmul, format_of, strong_directions
from taigi_lightning.planning.activation_plan import INPUT_ONLY, layer_bytes, of_family
from taigi_lightning.tasks.prompts import IGNORE
from taigi_lightning.training.distributed import sum_over_ranks
from taigi_lightning.training.kept_directions import strong_parts
from taigi_lightning.training.run_summary import add_to_how_it_trains

CHECKED = 3  # optimizer steps, of a new run as of a resumed one
# Of 500 steps on a real model, gradients of cosine 0.994 ended as in 16 bits, and such of 0.82 at 1.7 % more held-out
# loss (tests/benchmarks/matmul_fidelity.py): the line is drawn between.
LEAST_COSINE = 0.95
NAMES = ("input_ids", "labels", "position_ids")
KEY = "matmul_given_up"  # in a checkpoint: what its run began with, and did not go on in
# What is nearer to 16 bits than each, and its speed beside it, by the same measurements.
NEARER = {
    "fp8": ("int8", "as fast"),
    "int8": ("int8_mixed", "a little slower"),
    "int8_mixed": ("int8_backward", "slower"),
    "fp8_backward": ("int8_backward", "as fast"),
}
GIVEN_UP = (
    "Products in {matmul} turned the gradients too far when this run began: it goes on in 16 bits, as then."
)


class MatmulGuard(Callback):
    """Compare the adapter's gradients of one row, in 8 bits and in 16, before each of the first steps; in int8_mixed of
    as many rows as its strongest directions are looked for in, since they are found there.

    Logs the mean of its matrices' cosines as `int8/gradient_cosine`, and by what share the loss is larger as
    `int8/loss_difference` (or `fp8/`), each the mean over all ranks. Then the run says what 8 bits cost, on the
    terminal and in its report; below `LEAST_COSINE` it goes on in 16 bits. It draws no random numbers of the run's, and
    no layer holds its weights dequantised until it is through.
    """

    def __init__(self) -> None:
        self._left = 0
        self._found: list[tuple[float, float]] = []  # cosine and difference of the loss, of each step
        self._last = -1
        self._given_up: str | None = None  # by the run that goes on from a checkpoint

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Say what the run has given up, so that a resumed one goes on as it did."""
        decoder = fast_decoder(pl_module.model)
        if decoder is not None and decoder.matmul != pl_module.matmul:
            checkpoint[KEY] = pl_module.matmul

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Remember what had been given up until the model is where it trains."""
        self._given_up = checkpoint.get(KEY) if trainer.state.fn == TrainerFn.FITTING else None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to watch, if there is anything in 8 bits."""
        decoder, given_up = fast_decoder(pl_module.model), self._given_up
        self._given_up, self._left, self._last, self._found = None, 0, -1, []
        if decoder is None or decoder.matmul == "bf16":
            return
        if decoder.matmul == given_up:
            self._go_on(pl_module, right=False)
            self._tell(trainer, pl_module, GIVEN_UP.format(matmul=given_up) + nearer(given_up))
            return
        self._left, decoder.compared = CHECKED, True

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Compare once a step, then let the run be."""
        if not self._left or trainer.global_step == self._last:
            return
        self._last = trainer.global_step
        decoder = fast_decoder(pl_module.model)
        matmul = "bf16" if decoder is None else decoder.matmul
        rows = fullest_rows(batch, MOST if strong_directions(matmul) else 1)
        difference = None if rows is None else self._compare(trainer, pl_module, rows)
        found = [0.0, 0.0, 0.0] if difference is None else [*difference, 1.0]
        cosine, loss, ranks = sum_over_ranks(found, pl_module.device).tolist()
        self._left -= 1
        right = True
        if ranks:
            cosine, loss = cosine / ranks, loss / ranks
            self._found.append((cosine, loss))
            right = cosine >= LEAST_COSINE  # and not where it is no number
            name = format_of(matmul)
            for logger in trainer.loggers:  # what the module logs is logged again in every step that follows
                metrics = {f"{name}/gradient_cosine": cosine, f"{name}/loss_difference": loss}
                logger.log_metrics(metrics, step=trainer.global_step)
        if not right:
            self._left = 0
        if not self._left:
            self._go_on(pl_module, right)
            self._say(trainer, pl_module, matmul)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say what was found in a run of fewer steps, and leave the decoder as it was."""
        decoder = fast_decoder(pl_module.model)
        if self._left and decoder is not None:
            decoder.compared = False
            self._say(trainer, pl_module, decoder.matmul)

    def _say(self, trainer: pl.Trainer, module: Any, matmul: str) -> None:
        said = verdict(matmul, self._found)
        decoder = fast_decoder(module.model)
        mixed = decoder is not None and strong_directions(decoder.matmul)
        if mixed and any(part is not None and part.directions is None for part in strong_parts(module)):
            said += (
                f" No micro-batch so far had the {FEWEST} tokens in which the strongest directions are looked for: "
                f"until one has, {matmul} computes as int8 does."
            )
        self._tell(trainer, module, said)

    def _tell(self, trainer: pl.Trainer, module: Any, said: str) -> None:
        module.print(said)
        add_to_how_it_trains(trainer, said)

    def _go_on(self, module: Any, right: bool) -> None:
        """Decide what memory may hold anew, and in what products are made."""
        decoder = fast_decoder(module.model)
        if decoder is not None:
            decoder.compared = False
            compute_in(module.model, decoder.matmul if right else "bf16")
        for part in strong_parts(module):
            if part is not None and not right:
                part.use(None)  # nothing asks for them any more

    def _compare(
        self, trainer: pl.Trainer, module: Any, rows: dict[str, Tensor]
    ) -> tuple[float, float] | None:
        """Cosine of the gradients, and the share by which the loss in 8 bits is larger; None if memory is short, or
        16 bits give no numbers either."""
        decoder = fast_decoder(module.model)
        assert decoder is not None
        matmul, plans = decoder.matmul, decoder.plans
        try:
            wanted, gradients = self._gradients(trainer, module, rows, "bf16")
            if not math.isfinite(wanted) or not torch.stack([g.isfinite().all() for g in gradients]).all():
                module.print("Loss or gradients of this step are not finite in 16 bits either.")
                return None
            found, others = self._gradients(trainer, module, rows, matmul)
        except torch.OutOfMemoryError:
            module.print("Too little memory is left to compare 8 bits with 16 in this step.")
            return None
        finally:
            compute_in(module.model, matmul)
            decoder.plans = plans
        return cosine_of(gradients, others), found / wanted - 1 if wanted else found

    def _gradients(
        self, trainer: pl.Trainer, module: Any, rows: dict[str, Tensor], way: Matmul
    ) -> tuple[float, list[Tensor]]:
        """Loss and gradients of the adapter, with the dropout of one seed, keeping as little as layers can."""
        decoder = fast_decoder(module.model)
        assert decoder is not None
        compute_in(module.model, way)
        shape = (rows["input_ids"].shape[0], rows["input_ids"].shape[1])
        sizes = layer_bytes(decoder.shape, shape[0] * shape[1], decoder.element_size)
        decoder.plans = {shape: [of_family(INPUT_ONLY, sizes)] * len(decoder.layers)}
        trained = [p for p in module.model.parameters() if p.requires_grad]
        with torch.random.fork_rng(devices=[]), trainer.precision_plugin.train_step_context():
            # And not a card's generator, which would not be as before afterwards.
            torch.default_generator.manual_seed(0)
            loss = module.loss_sum(rows)
            found = torch.autograd.grad(loss, trained, allow_unused=True)
        return float(loss.detach()), [g for g in found if g is not None]


def nearer(matmul: str) -> str:
    """A sentence that names what is nearer to 16 bits; empty where nothing is."""
    other, speed = NEARER.get(matmul, ("", ""))
    return f" Nearer to 16 bits than {matmul}, and {speed}: --model.matmul {other}." if other else ""


def verdict(matmul: str, found: list[tuple[float, float]]) -> str:
    """What a run says of its products in 8 bits once they have been compared.

    Args:
        found: of each step the cosine of the gradients and the difference of the loss; the last may be too far.

    >>> print(verdict("int8_backward", [(0.9996, 0.0), (0.9994, 0.0)]))
    Products in int8_backward, against 16 bits: of one row or more the adapter's gradients have a mean cosine of \
0.9995 (steps compared: 2; below 0.95 the run would go on in 16 bits), and the loss differs by +0.00%.
    """
    if not found:
        return f"Products in {matmul} were not compared with 16 bits: no row of the first steps could be."
    if not found[-1][0] >= LEAST_COSINE:
        cosine, loss = found[-1]
        return (
            f"Products in {matmul} turn the gradients too far: of one row or more their mean cosine to those in 16 "
            f"bits is {cosine:.3f}, and {LEAST_COSINE} is wanted; the loss differs by {loss:+.1%}. The run goes on in "
            f"16 bits, as with --model.matmul bf16.{nearer(matmul)}"
        )
    cosine, loss = (statistics.fmean(values) for values in zip(*found, strict=True))
    return (
        f"Products in {matmul}, against 16 bits: of one row or more the adapter's gradients have a mean cosine of "
        f"{cosine:.4f} (steps compared: {len(found)}; below {LEAST_COSINE} the run would go on in 16 bits), and the "
        f"loss differs by {loss:+.2%}.{nearer(matmul)}"
    )


def fullest_rows(batch: Any, tokens: int = 1) -> dict[str, Tensor] | None:
    """The rows of a training batch with most supervised tokens, as few as have so many tokens, padding included.

    With whatever else the batch has for each row, which a loss of the user's own may read. None of other batches, or of
    one without supervised tokens.
    """
    if not isinstance(batch, dict) or not all(isinstance(batch.get(name), Tensor) for name in NAMES):
        return None
    supervised = (batch["labels"][:, 1:] != IGNORE).sum(1)
    if not int(supervised.sum()):
        return None
    rows = supervised.argsort(descending=True, stable=True)[: -(-tokens // batch["labels"].shape[1])]
    by_row = {name: value for name, value in batch.items() if isinstance(value, Tensor) and value.dim()}
    return {name: value[rows] for name, value in by_row.items() if len(value) == len(supervised)}


def cosine_of(one: list[Tensor], other: list[Tensor]) -> float:
    """Mean over two lists' tensors of the cosine of the angle between both; tensors that are zero in both do not count.

    Not of all as one vector: Adam's steps are as large where gradients are small, and of a real model one matrix had
    more of the squares than all others together, and -0.88 where those had 0.98 (tests/benchmarks/LOG.md).
    """
    dots = [
        torch.stack([(x.double() * y.double()).sum() for x, y in ((a, b), (a, a), (b, b))])
        for a, b in zip(one, other, strict=True)
    ]
    product, left, right = torch.stack(dots).T
    cosines = torch.where(left * right == 0.0, 0.0, product / (left * right).sqrt())
    counted = cosines[(left != 0.0) | (right != 0.0)]
    return float(counted.mean()) if len(counted) else 1.0

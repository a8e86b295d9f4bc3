"""Questions a second of `predict` in the 13B shape: against the way of a usual notebook, and the matrix bound.

    python -m tests.benchmarks.predict_speed                       # one GPU with 80 GB, about three minutes
    python -m tests.benchmarks.predict_speed --matmul bf16 int8 fp8 --on_host   # only these, in turn; two minutes
    python -m tests.benchmarks.predict_speed --layers 2 --hidden 64 --questions 40   # a dry run anywhere

The model has random weights, made in memory: NF4 with double quantisation and a LoRA adapter of rank 16. Ours is
`Trainer.predict` over 1,001 prompts of random tokens whose lengths follow the test questions: passages of 21 / 147 /
303 / 469 characters (least, median, 95th percentile, most), 114 of them repeated, 0.9 tokens a character (a guess:
the real tokenizer was not at hand). The notebook's way is transformers' `generate` of PEFT's model in batches of 4 in
input order, left-padded, 5 new tokens; every sixth batch is timed. The bound is what the decoder's products of all
tokens, repeated passages once, take at the rate measured on the same card for the same products alone.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import lightning.pytorch as pl
import torch

from taigi_lightning.evaluation.answers import answer_log_probabilities
from taigi_lightning.evaluation.close_calls import in_16_bits
from taigi_lightning.evaluation.greedy_answers import generate_tokens
from taigi_lightning.evaluation.prediction_writer import PredictionWriter
from taigi_lightning.fast_path.apply import apply_fast_path, causal_lm, compute_in, fast_decoder
from taigi_lightning.fast_path.prefill import unpack_what_fits
from taigi_lightning.kernels.matmul import Matmul, forward_in_8_bits
from taigi_lightning.model.adapters import LoraSettings
from taigi_lightning.tasks.question_batches import EncodedQuestion, QuestionBatch, plan_batches
from taigi_lightning.training.module import CausalLMModule
from tests.benchmarks.predict_bound import Bound, say, seconds, synchronize
from tests.benchmarks.predict_workload import CUDA, DEVICE, MadeUpQuestions, make_model, make_questions


def tree_tokens(questions: Sequence[EncodedQuestion], share: bool) -> int:
    """Tokens to compute."""
    batches = plan_batches(questions, 16384, share=share)
    return sum(len(tree.tokens) for batch in batches for tree in batch.trees)


class Clock(pl.Callback):
    """Times `predict` from its first batch to its files, and runs what else is to be measured after it."""

    def __init__(
        self,
        questions: list[EncodedQuestion],
        batch_tokens: int,
        profile: bool,
        ways: Sequence[Matmul],
        on_host: bool,
    ) -> None:
        self.questions, self.batch_tokens, self.profile = questions, batch_tokens, profile
        self.ways, self.on_host = ways, on_host
        self.began = self.first = 0.0
        self.steps: list[float] = []
        self.bound: Any = None

    def on_predict_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        model = pl_module.model
        if fast_decoder(model) is None:  # the module does this on a GPU alone
            apply_fast_path(model, activation_budget=1.0, offload=False)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.01)
        say(what="weights held unpacked", groups=held(model))
        if CUDA:
            torch.cuda.reset_peak_memory_stats()
        self.bound = Bound(model, self.batch_tokens)
        batches = plan_batches(self.questions, self.batch_tokens)
        say(what="first batch, kernels compiled", seconds=seconds(lambda: choose_all(model, batches[:1])))
        choose_all(model, batches[-1:])
        synchronize()
        self.began = time.perf_counter()

    def on_predict_batch_start(self, *_: Any, **__: Any) -> None:
        self.first = time.perf_counter()

    def on_predict_batch_end(self, *_: Any, **__: Any) -> None:
        self.steps.append(time.perf_counter() - self.first)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        took = time.perf_counter() - self.began
        self.report("predict, passages shared", took, shared=True)
        say(what="inside steps", seconds=sum(self.steps), batches=len(self.steps))
        # Transformers' own pass, which the last two take, gives up weights held unpacked.
        for work in (
            (self.turns,) if self.ways else (self.profiled, self.others, self.agreement, self.notebook)
        ):
            try:
                work(pl_module.model, len(self.questions) / took)
            except Exception as error:  # one measurement less
                say(what=work.__name__, failed=repr(error)[:500])

    def report(self, what: str, took: float, shared: bool) -> None:
        count = len(self.questions)
        tokens = tree_tokens(self.questions, shared)
        peak = torch.cuda.max_memory_allocated() / 2**30 if CUDA else 0.0
        say(
            what=what, seconds=took, questions_per_s=count / took, tokens=tokens, tokens_per_s=tokens / took,
            **self.bound.shares(tokens, count, took), peak_gib=peak,
        )  # fmt: skip

    def turns(self, model: Any, ours: float) -> None:
        """Products in each way in turn, the first again at the end; then with all packed weights on the host."""
        wanted = log_probabilities(model, plan_batches(self.questions[:64], 8192))
        self.bound.in_8_bits(self.ways)
        rates: list[dict[int, float]] = []
        for way in (*self.ways, self.ways[0]):
            compute_in(model, way)
            unpack_what_fits(model, self.batch_tokens)
            rates.append(self.turn(model, way, rates))
            if forward_in_8_bits(way):
                self.some_again(model, way, rates[0][self.batch_tokens])
            self.profiled(model, ours)
            long, short = (
                log_probabilities(model, plan_batches(self.questions[:64], size)) for size in (8192, 512)
            )
            say(
                what=f"{way}, mean difference of log-probabilities", from_the_first=(long - wanted).abs().mean().item(),
                of_short_batches=(short - long).abs().mean().item(),
            )  # fmt: skip
        for way in self.ways if self.on_host else ():
            compute_in(model, way)
            fast_decoder(model).keep_on_host(set(range(len(fast_decoder(model).layers))))
            self.turn(model, f"{way}, weights on the host", rates)

    def turn(self, model: Any, way: str, before: Sequence[dict[int, float]]) -> dict[int, float]:
        """Questions a second by tokens a batch: long batches, short ones, and of one question each."""
        found = {}
        for size, count in ((self.batch_tokens, len(self.questions)), (512, 96), (1, 32)):
            batches = plan_batches(self.questions[:count], size)
            choose_all(model, batches[:: max(1, len(batches) - 1)])  # kernels compiled
            if CUDA:
                torch.cuda.reset_peak_memory_stats()
            found[size] = count / seconds(lambda batches=batches: choose_all(model, batches))  # type: ignore[misc]
            say(
                what=f"RESULT {way}, {size} tokens a batch", questions_per_s=found[size],
                times_the_first=found[size] / (before[0] if before else found)[size], groups_held=held(model),
                peak_gib=torch.cuda.max_memory_allocated() / 2**30 if CUDA else 0.0,
            )  # fmt: skip
        return found

    def some_again(self, model: Any, way: str, first: float) -> None:
        """Every question, and a twentieth once more in 16 bits, which `predict` does with close calls; random weights
        would have nearly all be such."""
        count = len(self.questions)
        every, some = (
            plan_batches(part, self.batch_tokens) for part in (self.questions, self.questions[::20])
        )

        def work() -> None:
            choose_all(model, every)
            with in_16_bits(model, self.batch_tokens):
                choose_all(model, some)

        rate = count / seconds(work)
        say(what=f"RESULT {way}, a twentieth asked again", questions_per_s=rate, times_the_first=rate / first)

    def agreement(self, model: Any, ours: float) -> None:
        """Whether shared passages, no sharing and transformers' own layers agree on some questions."""
        some = self.questions[:64]
        shared = log_probabilities(model, plan_batches(some, 8192))
        apart = log_probabilities(model, plan_batches(some, 4096, share=False))
        decoder = causal_lm(model).__dict__.pop("fast_decoder")
        theirs = log_probabilities(model, plan_batches(some, 4096, share=False))
        causal_lm(model).fast_decoder = decoder
        for what, other in (("unshared", apart), ("transformers", theirs)):
            difference = (shared - other).abs()
            same = (shared.argmax(-1) == other.argmax(-1)).double().mean().item()
            spread = other.std(-1).mean().item()
            say(
                what=f"shared against {what}", same_answers=same, mean_difference=difference.mean().item(),
                largest_difference=difference.max().item(), spread_of_the_four=spread,
            )  # fmt: skip

    def others(self, model: Any, ours: float) -> None:
        """Without Lightning, without sharing, and with larger batches."""
        for size, share in (
            (self.batch_tokens, True),
            (self.batch_tokens, False),
            (2 * self.batch_tokens, True),
        ):
            batches = plan_batches(self.questions, size, share=share)
            took = seconds(lambda batches=batches: choose_all(model, batches))  # type: ignore[misc]
            self.report(f"loop alone, {size} tokens a batch, shared: {share}", took, share)

    def notebook(self, model: Any, ours: float) -> None:
        """`generate`: the adapter beside the base as PEFT does it, or no adapter, or autocast, or two tokens."""
        every = [self.questions[start : start + 4] for start in range(0, len(self.questions), 4)]
        generate_four(model, every[0], 5)
        for what, sample, tokens, context in (
            ("notebook", every[::6], 5, nullcontext()),
            ("notebook, autocast", every[3::18], 5, torch.autocast(DEVICE, torch.bfloat16, enabled=CUDA)),
            ("notebook, no adapter", every[3::18], 5, model.disable_adapter()),
            ("notebook, two new tokens", every[3::18], 2, nullcontext()),
        ):
            with context:
                took = seconds(lambda: [generate_four(model, four, tokens) for four in sample])  # noqa: B023
            rate = sum(map(len, sample)) / took
            say(what=what, batches=len(sample), questions_per_s=rate, times_ours=ours / rate)

    def profiled(self, model: Any, ours: float) -> None:
        """The kernels of one batch."""
        if not (self.profile and CUDA):
            return
        batch = plan_batches(self.questions, self.batch_tokens)[5]
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
            took = seconds(lambda: choose_all(model, [batch]))
        events = sorted(profiler.key_averages(), key=lambda event: -event.self_device_time_total)
        say(
            what="profile", wall_ms=took * 1e3, kernels_ms=sum(e.self_device_time_total for e in events) / 1e3
        )
        for event in events[:22]:
            total, count = event.self_device_time_total, event.count
            print(f"{total / 1e3:9.2f} ms {count:5d} {total / count:9.1f} us  {event.key[:90]}", flush=True)


def held(model: Any) -> int:
    """Groups of projections whose weights are held as products read them."""
    groups = [group for layer in fast_decoder(model).layers for group in layer.groups()]
    return sum(group.resident is not None for group in groups)


def choose_all(model: Any, batches: Sequence[QuestionBatch]) -> None:
    """Answer every batch, results brought to the CPU as `predict` does."""
    for batch in batches:
        answer_log_probabilities(model, batch).tolist()


def log_probabilities(model: Any, batches: Sequence[QuestionBatch]) -> torch.Tensor:
    """Log-probabilities [N, 4] in the order of the rows."""
    found = {}
    for batch in batches:
        rows = answer_log_probabilities(model, batch).cpu()
        found |= {question.row: row for question, row in zip(batch.questions, rows, strict=True)}
    return torch.stack([found[row] for row in sorted(found)])


def generate_four(model: Any, questions: Sequence[EncodedQuestion], tokens: int) -> None:
    """One left-padded batch; the random model rarely ends by itself."""
    tokenizer: Any = SimpleNamespace(pad_token_id=0, eos_token_id=2, bos_token_id=1)
    generate_tokens(model, tokenizer, [question.prompt for question in questions], tokens)


def main() -> None:
    """Print one JSON object a measurement."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--layers", type=int, default=40)
    parser.add_argument("--hidden", type=int, default=5120)
    parser.add_argument("--questions", type=int, default=1001)
    parser.add_argument("--batch-tokens", type=int, default=16384)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--matmul", nargs="+", choices=get_args(Matmul), default=[])
    parser.add_argument("--on_host", action="store_true", help="with --matmul: then with weights on the host")
    options = parser.parse_args()
    began = time.perf_counter()
    base = make_model(options.layers, options.hidden)
    device = torch.cuda.get_device_name() if CUDA else "cpu"
    say(what="model", device=device, torch=torch.__version__, seconds=time.perf_counter() - began)
    # The module builds everything else itself, wherever that was put.
    for file in [file for name, file in sys.modules.items() if name.startswith("taigi_lightning.")]:
        if hasattr(file, "load_base_model"):
            file.load_base_model = lambda *_, **__: base
    module = CausalLMModule("models/tiny-taigi", lora=LoraSettings(r=16, lora_alpha=32))
    module._identity = {}  # which files the base came from
    questions = make_questions(options.questions)
    data = MadeUpQuestions(questions, options.batch_tokens)
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            accelerator="auto", devices=1, precision="bf16-mixed" if CUDA else "32-true", logger=False,
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
            callbacks=[
                PredictionWriter(Path(folder) / "output.csv"),
                Clock(questions, options.batch_tokens, options.profile, options.matmul, options.on_host),
            ],
        )  # fmt: skip
        trainer.predict(module, data, return_predictions=False)
        written = len((Path(folder) / "output.csv").read_text(encoding="utf-8").splitlines()) - 1
        say(what="answers written", rows=written)


if __name__ == "__main__":
    main()

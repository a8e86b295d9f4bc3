"""What is left of CPT's gain where SFT starts, and after SFT, by the way in which CPT's adapter is handed on.

    python -m corpus_tools sample DATA --articles 400 --test_questions 300
    python -m corpus_tools clean DATA/IMA-Taiwan --output_dir DATA/cpt_corpus
    python -m tests.benchmarks.hand_off BASE DATA OUTPUT  # --help: steps, rows, length, rates

BASE is a real model's folder, as `demo-real` leaves it in `models/demo-real/base`. CPT runs once, through the real
command. The first table then puts weights together in every way, in float32, and measures the perplexity per
character of held-out text; the second runs SFT from each hand-off. What was measured: LOG.md.

With W the 16-bit weights, Q(.) NF4 with double quantisation and back, D = scale * B A and E = Q(W) - W.
"""

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from bitsandbytes.functional import get_4bit_type
from torch import Tensor
from transformers import AutoModelForCausalLM

from taigi_lightning.__main__ import main as command
from taigi_lightning.evaluation.compare import answer
from taigi_lightning.evaluation.compared_models import Settings, load
from taigi_lightning.evaluation.perplexity import held_out_texts, perplexity_per_character, windows
from taigi_lightning.evaluation.scoring import read_answers, score
from taigi_lightning.model.base_model import load_tokenizer
from taigi_lightning.model.lora_deltas import read_updates
from taigi_lightning.model.merge_precision import nf4_round_trip, round_stochastically
from taigi_lightning.tasks.questions import read_questions

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
Weights = dict[str, Tensor]


def run(*arguments: str) -> None:
    """One of the project's commands, in this process."""
    sys.argv = ["taigi_lightning", *arguments]
    if command() != 0:
        raise SystemExit(f"failed: {' '.join(arguments)}")


def fit(options: argparse.Namespace, config: str, steps: int, base: Path, root: Path, *more: str) -> None:
    """A stage, as `demo-real` runs it."""
    run(
        "fit", f"--config=configs/{config}.yaml", f"--model.base={base}", "--seed_everything=9527",
        f"--trainer.default_root_dir={root}", "--trainer.logger=null", "--trainer.enable_progress_bar=false",
        f"--trainer.max_steps={steps}", "--trainer.accumulate_grad_batches=2",
        f"--trainer.val_check_interval={2 * steps}", "--trainer.limit_val_batches=2",
        f"--model.warmup_steps={steps // 10}", f"--data.init_args.batch_size={options.rows}",
        f"--data.init_args.max_length={options.length}", *more,
    )  # fmt: skip


def second_rounding(target: Tensor, hessian: Tensor) -> Tensor:
    """`target` [N, K] in NF4 and back, each column's error fed into those after it (Frantar et al. 2022, GPTQ).

    Args:
        hessian: [K, K], the sum of the inputs' outer products.
    """
    levels = get_4bit_type("nf4", device=target.device).data.float().sort().values
    middles = (levels[1:] + levels[:-1]) / 2
    size = hessian.shape[0]
    damped = hessian + 0.01 * hessian.diagonal().mean() * torch.eye(size, device=target.device)
    inverse = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(damped)), upper=True)
    rest, found = target.clone(), torch.empty_like(target)
    for begin in range(0, size, 64):
        block, errors = slice(begin, begin + 64), []
        scale = rest[:, block].abs().amax(1).clamp(min=1e-12)
        for column in range(begin, min(begin + 64, size)):
            value = rest[:, column].clone()
            found[:, column] = levels[torch.bucketize(value / scale, middles)] * scale
            errors.append((value - found[:, column]) / inverse[column, column])
            rest[:, column : begin + 64] -= errors[-1][:, None] * inverse[column, column : begin + 64]
        rest[:, begin + 64 :] -= torch.stack(errors, 1) @ inverse[block, begin + 64 :]
    return found


def input_products(model: Any, names: Sequence[str], passes: Callable[[], Any]) -> Weights:
    """[K, K] for each weight: the sum of its inputs' outer products over some forward passes."""
    sums: Weights = {}
    hooks = []
    for name in names:

        def add(_: Any, inputs: tuple[Tensor, ...], name: str = name) -> None:
            rows = inputs[0].reshape(-1, inputs[0].shape[-1]).float()
            sums[name] = sums.get(name, 0) + rows.T @ rows

        hooks.append(model.get_submodule(name.removesuffix(".weight")).register_forward_pre_hook(add))
    passes()
    for hook in hooks:
        hook.remove()
    return sums


def low_rank(matrix: Tensor, rank: int = 16) -> Tensor:
    """The best approximation of that rank, nearly (Halko et al. 2011)."""
    u, s, v = torch.svd_lowrank(matrix, q=2 * rank, niter=4)
    return (u[:, :rank] * s[:rank]) @ v[:, :rank].T


def ways(weights: Weights, updates: Weights) -> Iterator[tuple[str, Callable[[str], Tensor]]]:
    """Each way of putting a weight together: what it is called, and its weight by name, in float32."""
    w, d = weights, updates
    generator = torch.Generator(DEVICE).manual_seed(9527)

    def stored(value: Tensor) -> Tensor:
        return round_stochastically(value.clone(), torch.bfloat16, generator).float()

    def signs(like: Tensor) -> Tensor:
        return torch.randint(2, like.shape, generator=generator, device=DEVICE) * 2.0 - 1

    q = {name: nf4_round_trip(value) for name, value in w.items()}
    merged = {name: stored(w[name] + d[name]) for name in w}
    yield "W, 16-bit base", lambda n: w[n]
    yield "Q(W), 4-bit base", lambda n: q[n]
    yield "Q(W) + D, trained: continue, stack", lambda n: q[n] + d[n]
    yield "W + D, float32", lambda n: w[n] + d[n]
    yield "M = W + D, merged, 16 bits", lambda n: merged[n]
    yield "Q(M), merge", lambda n: nf4_round_trip(merged[n])
    yield "Q(W + D), never in 16 bits", lambda n: nf4_round_trip(w[n] + d[n])
    yield "Q(W) + D in 16 bits, onto dequantised", lambda n: stored(q[n] + d[n])
    yield "Q(that), onto dequantised", lambda n: nf4_round_trip(stored(q[n] + d[n]))
    yield "W + E with random signs + D", lambda n: w[n] + signs(w[n]) * (q[n] - w[n]) + d[n]
    yield "W + E with random signs", lambda n: w[n] + signs(w[n]) * (q[n] - w[n])
    yield (
        "Q(M) + rank 16 of Q(W) + D - Q(M)",
        lambda n: nf4_round_trip(merged[n]) + low_rank(q[n] + d[n] - nf4_round_trip(merged[n])),
    )
    yield "Q(W) + rank 16 of D", lambda n: q[n] + low_rank(d[n])


def weight_table(base: Path, adapter: Path, corpus: Path, length: int) -> Iterator[str]:
    """Held-out perplexity of each way."""
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).to(DEVICE).eval()
    tokenizer, texts = load_tokenizer(str(base)), held_out_texts(corpus)
    found = read_updates(adapter)
    places = {name: model.get_parameter(name).data for name in found}
    weights = {name: place.clone() for name, place in places.items()}
    factors = {name: update.factors(str(DEVICE)) for name, update in found.items()}
    updates = {name: left @ right for name, (left, right) in factors.items()}
    yield sizes(weights, updates)
    nats: dict[str, float] = {}

    def measure(name: str, weight: Callable[[str], Tensor]) -> str:
        for key, place in places.items():
            place.copy_(weight(key))
        nats[name] = math.log(perplexity_per_character(model, tokenizer, texts, length, 4 * length))
        before, after = nats.get("Q(W), 4-bit base"), nats.get("Q(W) + D, trained: continue, stack")
        share = "" if before is None or after is None else f"{(before - nats[name]) / (before - after):.1%}"
        return f"| {name} | {math.exp(nats[name]):.3f} | {share} |"

    yield "| weights | perplexity per character | of CPT's gain |"
    yield "|-|-|-|"
    for name, weight in ways(weights, updates):
        yield measure(name, weight)
    trained = {name: nf4_round_trip(weights[name]) + updates[name] for name in weights}
    for key, place in places.items():
        place.copy_(trained[key])
    files = sorted(corpus.glob("train-*.parquet"))
    seen = pq.read_table(files[0], columns=["text"])["text"].to_pylist()[:32]

    def passes() -> None:
        with torch.no_grad():
            for ids, _ in windows(tokenizer, seen, length, 4 * length):
                model.get_decoder()(input_ids=ids.to(DEVICE))

    products = input_products(model, list(places), passes)
    yield measure("Q(W) + D by GPTQ", lambda n: second_rounding(trained[n], products[n]))


def sizes(weights: Weights, updates: Weights) -> str:
    """How large update and error are, how much of the update a merge keeps, and how alike both errors are."""
    sums = torch.zeros(6, dtype=torch.float64)
    for name, w in weights.items():
        d, merged = updates[name], w + updates[name]
        e, again = nf4_round_trip(w) - w, nf4_round_trip(merged) - merged
        change = nf4_round_trip(merged) - nf4_round_trip(w)
        pairs = ((w, w), (d, d), (e, e), (change, d), (e, again), (again, again))
        sums += torch.tensor([float((a.double() * b.double()).sum()) for a, b in pairs])
    w2, d2, e2, kept, product, again2 = sums.tolist()
    alike = product / math.sqrt(e2 * again2)
    return (
        f"|D| = {math.sqrt(d2 / w2):.2%} and |E| = {math.sqrt(e2 / w2):.2%} of |W|; <Q(W + D) - Q(W), D> is "
        f"{kept / d2:.1%} of <D, D>; the second rounding's error correlates with E by {alike:.2f}."
    )


def stage_table(options: argparse.Namespace, cpt: Path) -> Iterator[str]:
    """What SFT starts from and what it leaves, by hand-off."""
    data, output = options.data, options.output
    asked = read_questions(data / "1001-question-v3.csv", need_answers=False)
    right = read_answers(data / "1001-question-v3-answers.csv")
    texts = held_out_texts(data / "cpt_corpus")

    def measure(path: str, hand_off: Any, name: str) -> tuple[float, float]:
        settings = Settings("nf4", 2048, 16384, hand_off)
        model, tokenizer = load(path, settings)
        with torch.autocast(DEVICE.type, settings.dtype, enabled=settings.dtype != torch.float32):
            perplexity = perplexity_per_character(model, tokenizer, texts, options.length, 16384)
            given = answer(model, tokenizer, asked, (), settings, output / f"{name}.csv")
        return math.log(perplexity), score(given, right).accuracy

    before, _ = measure(str(options.base), "stack", "base")
    after, _ = measure(f"{options.base}+{cpt / 'adapter'}", "stack", "cpt")
    yield "| hand-off | perplexity where SFT starts | of CPT's gain | after SFT | of CPT's gain | right answers |"
    yield "|-|-|-|-|-|-|"
    for hand_off in options.hand_offs:
        start, _ = measure(str(cpt), hand_off, f"start-{hand_off}")
        root = output / f"sft-{hand_off}"
        train = f"--data.init_args.train_file={data / 'AI_conv.csv'}"
        rate = f"--model.optimizer.init_args.lr={options.sft_lr}"
        handed = ("--export.merge=false", f"--model.hand_off={hand_off}")
        fit(options, "sft", options.sft_steps, cpt, root, train, rate, *handed)
        end, accuracy = measure(f"{cpt}+{root / 'adapter'}", hand_off, f"end-{hand_off}")
        shares = [f"{(before - nats) / (before - after):.1%}" for nats in (start, end)]
        yield (
            f"| {hand_off} | {math.exp(start):.3f} | {shares[0]} | {math.exp(end):.3f} | {shares[1]} "
            f"| {accuracy:.1%} of {len(asked)} |"
        )


def options_of() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    for name in ("base", "data", "output"):
        parser.add_argument(name, type=Path)
    for name, default in (("--steps", 60), ("--sft_steps", 40), ("--rows", 4), ("--length", 1024)):
        parser.add_argument(name, type=int, default=default)
    parser.add_argument("--lr", default="1e-3")
    parser.add_argument("--sft_lr", default="3e-4")
    parser.add_argument(
        "--hand_offs", nargs="+", default=["merge", "continue", "stack"], help="for the second table"
    )
    parser.add_argument("--only", choices=["weights", "stages"], help="leave the other table out")
    return parser.parse_args()


if __name__ == "__main__":
    given = options_of()
    folder = given.output / "cpt_model"
    if not (folder / "lineage.json").is_file():
        corpus_option = f"--data.init_args.data_dir={given.data / 'cpt_corpus'}"
        fit(
            given,
            "cpt",
            given.steps,
            given.base,
            folder,
            corpus_option,
            f"--model.optimizer.init_args.lr={given.lr}",
        )
    if given.only != "stages":
        for line in weight_table(given.base, folder / "adapter", given.data / "cpt_corpus", given.length):
            print(line, flush=True)
    if given.only != "weights":
        for line in stage_table(given, folder):
            print(line, flush=True)

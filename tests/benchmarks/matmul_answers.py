"""What training in 8 bits does to a merged model and to its answers: both stages on a real model, short.

    python -m corpus_tools sample DATA --articles 400 --questions 8000 --test_questions 1500
    python -m corpus_tools clean DATA/IMA-Taiwan --output_dir DATA/cpt_corpus
    python -m tests.benchmarks.matmul_answers DATA OUTPUT --bases models/demo-real/base --ways bf16 int8_backward int8

Each base is trained in each way from one seed, in processes of their own. CPT trains an adapter, which is merged as the
hand-off does it; the merged model is quantised again. How much of the held-out gain is left, a RESULT line says. Then
SFT trains on the questions, and the held-out ones are answered in 16 and in 8 bits, with weights held as `predict`
holds them, in int8 with LoRA's update added before they are rounded; "int8 anew" has LoRA beside. A RESULT line says
how many answers are the same and how many are correct. In the end the ways are compared with each other, question by
question. On a CPU everything is in float32 and 8 bits are emulated.
"""

import argparse
import json
import math
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, get_args

import torch

from taigi_lightning.data.collate import pad_right
from taigi_lightning.data.predict import encode_questions
from taigi_lightning.evaluation.answers import answer_log_probabilities
from taigi_lightning.evaluation.close_calls import ask_closest
from taigi_lightning.evaluation.predictions import Prediction
from taigi_lightning.evaluation.scoring import read_answers
from taigi_lightning.fast_path.apply import apply_fast_path, compute_in, fast_decoder, forward_hidden
from taigi_lightning.fast_path.cross_entropy import linear_cross_entropy_sum
from taigi_lightning.fast_path.output_head import output_head
from taigi_lightning.kernels.matmul import Matmul
from taigi_lightning.model.adapters import LoraSettings, attach_adapter
from taigi_lightning.model.base_model import load_base_model, load_tokenizer
from taigi_lightning.model.merge import merge_adapter
from taigi_lightning.model.merge_precision import pool
from taigi_lightning.tasks.prompts import IGNORE, encode_example
from taigi_lightning.tasks.question_batches import EncodedQuestion, plan_batches
from taigi_lightning.tasks.questions import read_questions
from tests.benchmarks.answers_beside import against, watch
from tests.benchmarks.matmul_fidelity import DEVICE, DTYPE, blocks, fit, loss_of

QUESTIONS, ANSWERS, TRAINING = "1001-question-v3.csv", "1001-question-v3-answers.csv", "AI_conv.csv"
ASKED_IN: dict[str, tuple[Matmul, bool]] = {  # what products are in, and whether weights are held
    "bf16": ("bf16", True),
    "int8": ("int8", True),
    "int8 anew": ("int8", False),
    "int8_mixed": ("int8_mixed", True),
    "fp8": ("fp8", True),
}
SETTLED = ("int8", "int8_mixed")  # of which close calls are asked again
LONGEST = 1024  # tokens of a question


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--bases", nargs="+", required=True, help="folders of models in 16 bits")
    parser.add_argument(
        "--ways", nargs="+", choices=get_args(Matmul), default=["bf16", "int8_backward", "int8"]
    )
    parser.add_argument("--cpt_steps", type=int, default=150)
    parser.add_argument("--sft_steps", type=int, default=300)
    parser.add_argument("--rows", type=int, default=4, help="of a step of CPT")
    parser.add_argument("--length", type=int, default=1024, help="tokens of such a row")
    parser.add_argument("--asked", type=int, default=32, help="questions of a step of SFT")
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--sft_rate", type=float, default=1e-3)
    parser.add_argument("--held_rows", type=int, default=24)
    parser.add_argument("--questions", type=int, default=10**6, help="held-out ones at most")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--patience", type=float, default=900, help="seconds for all processes together")
    parser.add_argument("--alone", action="store_true", help="one base, one way, in this process")
    return parser.parse_args()


def say(kind: str, **figures: Any) -> None:
    rounded = {k: float(f"{v:.5g}") if isinstance(v, float) else v for k, v in figures.items()}
    print(f"RESULT {kind}", json.dumps(rounded), flush=True)


# ---- one base in one way ----------------------------------------------------------------------------


def make_model(base: str, r: int, seed: int, way: Matmul) -> Any:
    torch.manual_seed(seed)
    loaded = load_base_model(base, quantization="nf4", compute_dtype=DTYPE, device=DEVICE)
    model = attach_adapter(loaded, LoraSettings(r, 2 * r, 0.05)).to(DEVICE).train()
    apply_fast_path(model, compile=DEVICE.type == "cuda", activation_budget=1.0)
    compute_in(model, way)
    return model


@torch.no_grad()
def held_out(model: Any, ids: torch.Tensor, way: Matmul = "bf16") -> float:
    """Mean loss of rows in products of a way."""
    training = model.training
    compute_in(model.eval(), way)
    found = sum(float(loss_of(model, row[None])) for row in ids) / len(ids)
    model.train(training)
    return found


def pre_train(args: argparse.Namespace, base: str, way: Matmul, folder: Path) -> Path:
    """CPT, the merge, and what is left of its gain after the second quantisation; the merged model's folder."""
    began, model = time.monotonic(), make_model(base, 64, args.seed, way)
    settings = argparse.Namespace(**vars(args) | {"base": base, "texts": args.data / "cpt_corpus"})
    ids, held = (
        blocks(settings, "train").to(DEVICE),
        blocks(settings, "validation")[: args.held_rows].to(DEVICE),
    )
    before = held_out(model, held)
    compute_in(model, way)
    losses = fit(model, ids, settings, args.cpt_steps)
    trained, own = held_out(model, held), held_out(model, held, way)
    model.save_pretrained(str(folder / "adapter"), save_embedding_layers=False)
    del model
    report = merge_adapter(base, folder / "adapter", folder / "merged", device=DEVICE.type)
    merged = held_out(make_model(str(folder / "merged"), 8, args.seed, "bf16"), held)
    say(
        "kept", base=Path(base).name, way=way, before=before, trained=trained, trained_in_its_own=own,
        merged_in_4_bits=merged, gain_kept=(before - merged) / (before - trained),
        update_kept=pool(list(report.survival.values())).fraction_4bit,
        last_losses=sum(losses[-20:]) / len(losses[-20:]), seconds=time.monotonic() - began,
    )  # fmt: skip
    return folder / "merged"


def question_batches(args: argparse.Namespace, tokenizer: Any) -> Iterator[dict[str, torch.Tensor]]:
    """Random ones of the training questions, padded; the same for all ways."""
    questions = read_questions(args.data / TRAINING, need_answers=True, unique_ids=False)
    draw = random.Random(args.seed)
    for _ in range(args.sft_steps):
        rows = []
        for question in draw.sample(questions, args.asked):
            example = encode_example(tokenizer, question, LONGEST)
            count = len(example.input_ids)
            rows.append(
                {"input_ids": example.input_ids, "labels": example.labels, "position_ids": range(count)}
            )
        yield pad_right(rows, int(tokenizer.pad_token_id), multiple_of=64)  # type: ignore[arg-type]


def tune(args: argparse.Namespace, model: Any, tokenizer: Any) -> float:
    """SFT with a warm-up and a cosine; the mean loss of the last steps."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=args.sft_rate, weight_decay=0.0)
    losses: list[torch.Tensor] = []
    for step, batch in enumerate(question_batches(args, tokenizer)):
        share = min(1.0, (step + 1) / 20) * 0.5 * (1 + math.cos(math.pi * step / args.sft_steps))
        optimizer.param_groups[0]["lr"] = args.sft_rate * share
        ids, labels, where = (batch[name].to(DEVICE) for name in ("input_ids", "labels", "position_ids"))
        loss = linear_cross_entropy_sum(forward_hidden(model, ids, where), output_head(model), labels)
        loss = loss / int((batch["labels"][:, 1:] != IGNORE).sum())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.detach())
    return float(torch.stack(losses[-20:]).mean())


def answered(
    model: Any, asked: Sequence[EncodedQuestion], form: str, tokens: int = 16384, share: bool = True
) -> tuple[list[int], torch.Tensor]:
    """The chosen options from 1, and the options' log-probabilities [N, 4], in the order of the questions."""
    way, hold = ASKED_IN[form]
    compute_in(model.eval(), way)
    decoder = fast_decoder(model)
    assert decoder is not None
    if hold:  # as `unpack_what_fits` does, on any device
        decoder.keep_unpacked(len(decoder.layers), packed_on_host=False, backward=False)
    found = {}
    for batch in plan_batches(asked, tokens, share=share):
        rows = answer_log_probabilities(model, batch).log_softmax(-1).cpu()
        found |= {question.row: row for question, row in zip(batch.questions, rows, strict=True)}
    together = torch.stack([found[question.row] for question in asked])
    return (together.argmax(-1) + 1).tolist(), together


def settle(
    model: Any, asked: Sequence[EncodedQuestion], given: Sequence[int], found: torch.Tensor
) -> tuple[list[int], int, float]:
    """The answers once close calls are asked again in 16 bits, as `predict` does; how many were, and how many of the
    others are expected to differ."""
    questions = {question.row: question for question in asked}
    rows = zip(asked, given, found.tolist(), strict=True)
    before = {q.row: [Prediction(q.row, q.id, a, tuple(row), None, False)] for q, a, row in rows}

    def ask(wanted: Sequence[int]) -> list[Prediction]:
        some = [questions[row] for row in wanted]
        answers, rows = answered(model, some, "bf16")
        return [
            before[q.row][0]._replace(answer=answer, log_probabilities=tuple(row))
            for q, answer, row in zip(some, answers, rows.tolist(), strict=True)
        ]

    again, left = ask_closest(before, ask)
    return [again.get(row, turns)[0].answer for row, turns in before.items()], len(again), left


def one(args: argparse.Namespace) -> None:
    """Both stages of one base in one way."""
    (base,), (way,) = args.bases, args.ways
    folder = args.output / f"{Path(base).name}-{way}"
    merged = pre_train(args, base, way, folder)
    tokenizer = load_tokenizer(str(merged))
    questions = read_questions(args.data / QUESTIONS, need_answers=False)[: args.questions]
    correct = dict(read_answers(args.data / ANSWERS))
    right = [correct[question.id] for question in questions]
    asked = encode_questions(tokenizer, questions, LONGEST)
    began, model = time.monotonic(), make_model(str(merged), 64, args.seed, way)
    loss = tune(args, model, tokenizer)
    trained = time.monotonic() - began
    given: dict[str, list[int]] = {}
    wanted, usual = answered(model, asked, "bf16")
    for form in ASKED_IN:
        given[form], found = answered(model, asked, form)
        say(
            "answers", base=Path(base).name, trained_in=way, asked_in=form, loss=loss,
            **against(given[form], wanted, right), moved=float((found - usual).abs().mean()),
            margin=float(usual.topk(2).values.diff().abs().mean()), seconds_of_training=trained,
        )  # fmt: skip
        if form in SETTLED:
            settled, again, left = settle(model, asked, given[form], found)
            say(
                "settled", base=Path(base).name, trained_in=way, asked_in=form, asked_again=again, left=left,
                **against(settled, wanted, right),
            )  # fmt: skip
    again, found = answered(model, asked, "bf16", tokens=4096, share=False)
    say(
        "answers", base=Path(base).name, trained_in=way, asked_in="bf16 in other batches",
        **against(again, wanted, right), moved=float((found - usual).abs().mean()),
    )  # fmt: skip
    (folder / "answers.json").write_text(json.dumps({"right": right, "given": given}), encoding="utf-8")


# ---- all bases in all ways -----------------------------------------------------------------------


def every(args: argparse.Namespace) -> None:
    """All bases in all ways, each in a process of its own at once; then the ways beside each other."""
    args.output.mkdir(parents=True, exist_ok=True)
    names = (
        "cpt_steps",
        "sft_steps",
        "rows",
        "length",
        "asked",
        "rate",
        "sft_rate",
        "held_rows",
        "questions",
        "seed",
    )
    passed = [f"--{name}={getattr(args, name)}" for name in names]
    running: dict[Path, subprocess.Popen[bytes]] = {}
    for base in args.bases:
        for way in args.ways:
            command = ["-m", "tests.benchmarks.matmul_answers", str(args.data), str(args.output), "--alone"]
            command += ["--bases", base, "--ways", way, *passed]
            log = args.output / f"{Path(base).name}-{way}.log"
            with log.open("wb") as file:
                running[log] = subprocess.Popen(
                    [sys.executable, *command], stdout=file, stderr=subprocess.STDOUT
                )
    watch(running, args.patience)
    for base in args.bases:
        files = {way: args.output / f"{Path(base).name}-{way}" / "answers.json" for way in args.ways}
        read = {
            way: json.loads(file.read_text(encoding="utf-8")) for way, file in files.items() if file.exists()
        }
        for first, way in combinations(read, 2):
            for form in dict.fromkeys(("bf16", way if way in ASKED_IN else "bf16")):
                found = against(read[way]["given"][form], read[first]["given"]["bf16"], read[first]["right"])
                say(
                    "ways", base=Path(base).name, trained_in=way, asked_in=form, beside=f"{first} in bf16", **found
                )  # fmt: skip


if __name__ == "__main__":
    arguments = parse_arguments()
    (one if arguments.alone else every)(arguments)

"""One class of transformers, small and random, through all that a run does, each step held against transformers.

What comes out is one row of `outcomes.csv`: how the class trains and answers here, or why it is refused. A new release
of transformers may change rows and add some: `python -m tests.taigi_lightning.architectures.walk` walks all classes
again and writes the table, and its diff says what became of them. With types after it, it walks these alone.
"""

from __future__ import annotations

import contextlib
import csv
import io
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from taigi_lightning.errors import InputError
from taigi_lightning.evaluation.answers import answer_log_probabilities
from taigi_lightning.evaluation.model_setup import build_model, take_fast_path
from taigi_lightning.fast_path.apply import causal_lm, fast_decoder, forward_hidden
from taigi_lightning.fast_path.cross_entropy import linear_cross_entropy_sum
from taigi_lightning.fast_path.output_head import output_head
from taigi_lightning.model.adapters import LoraSettings, load_adapter, save_adapter
from taigi_lightning.model.base_model import load_base_model
from taigi_lightning.model.merge import merge_adapter
from taigi_lightning.model.merge_places import adapted_shapes, check_mergeable, find_places
from taigi_lightning.model.text_model import text_model_class
from taigi_lightning.tasks.question_batches import EncodedQuestion, QuestionBatch
from tests.taigi_lightning.architectures.small_bases import save_base, whole_class
from tests.taigi_lightning.architectures.small_configs import (
    UNTRIED,
    VOCABULARY,
    small_config,
    text_model_types,
)

OUTCOMES = Path(__file__).with_name("outcomes.csv")
Quantization = Literal["nf4", "none"]
CPU = torch.device("cpu")
DOCUMENTS = [
    torch.randint(4, VOCABULARY, (n,), generator=torch.Generator().manual_seed(n)) for n in (21, 34, 9)
]
DRAWN = torch.randint(4, VOCABULARY, (90,), generator=torch.Generator().manual_seed(5)).tolist()
LORA = LoraSettings(r=4, lora_alpha=8)


class Outcome(NamedTuple):
    """How a class trains and answers.

    Attributes:
        path: of its layers in training: fast or general; "refused"; "untried", where no small one can be made; or
            "wrong", which no table that a test accepts holds.
        rows: of training, "packed" with documents or one "document" in each.
        passages: "shared" by questions, or each question read "alone".
        why: it is refused, in part, and whether that takes its weights; or what hinders a small one.
    """

    path: str
    rows: str = ""
    passages: str = ""
    why: str = ""


def built(base: Path, quantization: Quantization) -> Any:
    """The base with LoRA on it, B random too, as `fit` makes it."""
    model = build_model(
        str(base),
        lora=LORA,
        adapter=None,
        quantization=quantization,
        from_scratch=False,
        compute_dtype=torch.float32,
        device=CPU,
        training=True,
    )
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return model


def packed_row(documents: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens, positions and labels, each (1, T); a document's first token is predicted from nothing."""
    labels = [torch.cat([torch.tensor([-100]), document[1:]]) for document in documents]
    places = [torch.arange(len(document)) for document in documents]
    return torch.cat(documents)[None], torch.cat(places)[None], torch.cat(labels)[None]


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of every parameter that has one."""
    model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def apart(found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> float:
    """How far some gradients are from others, of these others' norm."""
    assert found.keys() == wanted.keys()
    differences = torch.cat([(found[name] - gradient).flatten() for name, gradient in wanted.items()])
    return float(differences.norm() / torch.cat([gradient.flatten() for gradient in wanted.values()]).norm())


def own_gradients(model: Any) -> dict[str, torch.Tensor]:
    """What transformers and PEFT compute by themselves, each document a row."""
    own = [model(input_ids=d[None], use_cache=False).logits[0, :-1].float() for d in DOCUMENTS]
    losses = [
        nn.functional.cross_entropy(logits, d[1:], reduction="sum")
        for logits, d in zip(own, DOCUMENTS, strict=True)
    ]
    return gradients(model, torch.stack(losses).sum())


def our_gradients(model: Any, packed: bool) -> dict[str, torch.Tensor]:
    """What a training step here computes of the same documents."""
    rows = [DOCUMENTS] if packed else [[d] for d in DOCUMENTS]
    losses = [
        linear_cross_entropy_sum(forward_hidden(model, ids, places), output_head(model), labels)
        for ids, places, labels in map(packed_row, rows)
    ]
    return gradients(model, torch.stack(losses).sum())


def check_training(base: Path, quantization: Quantization) -> tuple[Any, Outcome]:
    """A model after `take_fast_path`, whose gradients are those of transformers and PEFT in float32."""
    model = built(base, quantization)
    if quantization == "none":
        find_places(base, adapted_shapes(model.get_base_model()))
    wanted = own_gradients(model)
    if apart(own_gradients(model), wanted):  # it draws at random as it trains, as PhiMoE chooses its experts
        wanted = own_gradients(model.eval())
    findings = take_fast_path(
        model,
        device=CPU,
        training=True,
        compile=False,
        activation_budget=0.5,  # the first pass with every layer computed again, those after it with some
        compute_dtype=torch.float32,
        answers=True,
    )
    found = our_gradients(model, packed=findings.packing is None)
    error, limit = apart(found, wanted), 1e-5 if quantization == "none" else 1e-4
    assert error <= limit, f"{quantization}: gradients differ by {error:.1e}"
    dead = [name for name, p in model.named_parameters() if p.requires_grad and name not in found]
    assert not dead, f"{quantization}: {dead[:3]} of {len(dead)} have no gradient"
    path = "fast" if fast_decoder(model) is not None else "general"
    rows = "packed" if findings.packing is None else "document"
    return model, Outcome(path, rows, "shared" if findings.sharing is None else "alone")


def check_answers(model: Any) -> None:
    """Questions on one passage are answered as alone, by the model's own logits."""
    model.eval()
    questions = [
        EncodedQuestion(
            n, str(n), DRAWN[:40] + DRAWN[40 + 8 * n : 48 + 8 * n], ([7, 11], [7, 12], [8, 11], [8, 12])
        )
        for n in range(3)
    ]
    shared = answer_log_probabilities(model, QuestionBatch([questions]))
    for question, row in zip(questions, shared, strict=True):
        wanted = []
        for answer in question.answers:
            ids = torch.tensor([question.prompt + answer])
            with torch.no_grad():
                logs = causal_lm(model)(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1)
            start = len(question.prompt) - 1
            wanted.append(sum(logs[start + place, token] for place, token in enumerate(answer)))
        torch.testing.assert_close(row, torch.stack(wanted), rtol=1e-3, atol=1e-3)


def check_merge(model: Any, base: Path, folder: Path, whole: type[PreTrainedModel]) -> None:
    """The merged model computes what base and adapter do: its text model here, and all of it in plain transformers."""
    save_adapter(model, folder / "adapter", str(base))
    with contextlib.redirect_stderr(io.StringIO()):
        merge_adapter(base, folder / "adapter", folder)
    text = causal_lm(model)
    with model.disable_adapter():
        before = text_logits(text)
    merged = base_in_float32(folder)
    off = float((text_logits(merged) - text_logits(text)).norm() / (before - text_logits(text)).norm())
    assert off <= 2e-3, f"merged logits are off by {off:.1e} of the update"
    again = load_adapter(base_in_float32(base), str(folder / "adapter"), trainable=False)
    off = float((text_logits(again) - text_logits(text)).norm() / (before - text_logits(text)).norm())
    assert off <= 2e-3, f"the saved adapter's logits are off by {off:.1e} of the update"
    plain, found = whole.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    _, wanted = whole.from_pretrained(base, dtype=torch.float32, output_loading_info=True)
    assert found == wanted, f"plain transformers finds {found} in the merged model, {wanted} in the base"
    try:
        merged_whole = text_logits(plain.eval())
    except Exception as error:  # it wants more than text
        assert "pixel_values" in str(error) or "input_features" in str(error), error
        return
    adapted = PeftModel.from_pretrained(
        whole.from_pretrained(base, dtype=torch.float32), folder / "adapter"
    ).eval()
    wanted_logits = text_logits(adapted)
    with adapted.disable_adapter():
        before = text_logits(adapted)
    off = float((merged_whole - wanted_logits).norm() / (before - wanted_logits).norm())
    assert off <= 2e-2, f"the merged whole's logits are off by {off:.1e} of the update"


def base_in_float32(folder: Path) -> Any:
    """As every stage loads one."""
    return load_base_model(str(folder), quantization="none", compute_dtype=torch.float32, device=CPU)


@torch.no_grad()
def text_logits(model: Any) -> torch.Tensor:
    """Of a row of text."""
    logits: torch.Tensor = model(input_ids=torch.cat(DOCUMENTS)[None], use_cache=False).logits
    return logits.float()


def walk(model_type: str, folder: Path, **changes: Any) -> Outcome:
    """The outcome of a model type, with some settings changed; `folder` is for its files."""
    if model_type in UNTRIED:
        return Outcome("untried", why=UNTRIED[model_type])
    config, base = small_config(model_type, **changes), folder / "base"
    config.save_pretrained(base)
    try:
        text_model_class(base)
    except InputError as error:
        return Outcome("refused", why=_said(error, base))
    save_base(config, base)
    try:
        check_mergeable(base, None)
    except InputError as error:
        return Outcome("refused", why=_said(error, base))
    try:
        model, found = check_training(base, "none")
    except InputError as error:
        return Outcome("refused", why=f"with its weights: {_said(error, base)}")
    check_answers(model)
    check_merge(model, base, folder / "merged", whole_class(config))
    try:
        in_4_bits = check_training(base, "nf4")[1]
    except InputError as error:
        return found._replace(why=f"refused in 4 bits: {_said(error, base)}")
    assert in_4_bits == found, in_4_bits
    return found


def _said(error: InputError, base: Path) -> str:
    """What is said of a model, without where it lies."""
    return str(error).replace(str(base), "BASE")


def read_outcomes() -> dict[str, Outcome]:
    """The table: by model type, what came out."""
    with OUTCOMES.open(encoding="utf-8", newline="") as file:
        return {row.pop("model_type"): Outcome(**row) for row in csv.DictReader(file)}


def write_outcomes(outcomes: Mapping[str, Outcome]) -> None:
    """Write the table, sorted."""
    with OUTCOMES.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["model_type", *Outcome._fields])
        writer.writerows([kind, *outcomes[kind]] for kind in sorted(outcomes))


def main(types: Sequence[str]) -> None:
    """Walk some types, or all, and write what came out."""
    outcomes = read_outcomes() if types and OUTCOMES.exists() else {}
    for kind in types or text_model_types():
        with tempfile.TemporaryDirectory() as folder:
            try:
                outcomes[kind] = walk(kind, Path(folder))
            except Exception as error:  # the table says so, and its test fails
                outcomes[kind] = Outcome("wrong", why=f"{type(error).__name__}: {error}".partition("\n")[0])
        print(kind, *outcomes[kind], flush=True)
        write_outcomes(outcomes)


if __name__ == "__main__":
    main(sys.argv[1:])

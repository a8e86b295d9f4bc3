"""LoRA's gradients of a packed row are those of transformers and PEFT, one document a row, in float32."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from taigi_lightning.evaluation.self_check import self_check
from taigi_lightning.fast_path.apply import apply_fast_path, forward_hidden
from taigi_lightning.fast_path.cross_entropy import linear_cross_entropy_sum
from taigi_lightning.fast_path.output_head import output_head
from taigi_lightning.model.linear_targets import default_targets
from tests.taigi_lightning.architectures.small_bases import small_config, small_model, taught_families

DOCUMENTS = [torch.randint(4, 1280, (n,), generator=torch.Generator().manual_seed(n)) for n in (21, 34, 9)]
TAUGHT = {name: config.get_text_config() for name, config in taught_families().items()}
# Beside those: caps, scales and biases of logits, attention that sdpa cannot do, fused projections, Conv1D.
OTHERS = {
    name: small_config(name, **changes)
    for name, changes in {
        "gemma2": {"final_logit_softcapping": 2.0, "attn_logit_softcapping": 5.0},
        "gemma4_text": {"final_logit_softcapping": 8.0},
        "cohere2": {},
        "granite": {"logits_scaling": 8.0},
        "phi": {},
        "phi3": {},
        "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
        "gpt_oss": {},
        "qwen3_moe": {},
        "qwen3_next": {},
        "falcon": {},
        "mamba": {},
    }.items()
}


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def packed_row(documents: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens, positions and labels, each (1, T); a document's first token is predicted from nothing."""
    labels = [torch.cat([torch.tensor([-100]), document[1:]]) for document in documents]
    places = [torch.arange(len(document)) for document in documents]
    return torch.cat(documents)[None], torch.cat(places)[None], torch.cat(labels)[None]


@pytest.mark.parametrize("name", [*TAUGHT, *OTHERS])
def test_gradients_are_those_of_transformers_and_peft(name: str) -> None:
    base = small_model((TAUGHT | OTHERS)[name])
    targets = default_targets(base)
    model = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules=targets))
    torch.manual_seed(1)
    for parameter_name, parameter in model.named_parameters():
        if "lora_B" in parameter_name:
            nn.init.normal_(parameter, std=0.1)
    model.train()
    own = [model(input_ids=d[None], use_cache=False).logits[0, :-1].float() for d in DOCUMENTS]
    losses = [
        nn.functional.cross_entropy(logits, d[1:], reduction="sum")
        for logits, d in zip(own, DOCUMENTS, strict=True)
    ]
    wanted = gradients(model, torch.stack(losses).sum())
    apply_fast_path(model, activation_budget=0.0)
    findings = self_check(model, answers=False)
    rows = [[d] for d in DOCUMENTS] if findings.packing else [DOCUMENTS]
    parts = [packed_row(row) for row in rows]
    loss = [
        linear_cross_entropy_sum(forward_hidden(model, ids, places), output_head(model), labels)
        for ids, places, labels in parts
    ]
    found = gradients(model, torch.stack(loss).sum())
    assert found.keys() == wanted.keys()
    assert len(found) == sum(p.requires_grad for p in model.parameters())
    for key, gradient in wanted.items():
        assert float((found[key] - gradient).norm() / gradient.norm()) <= 1e-5, key

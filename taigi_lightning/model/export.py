"""A model trained from scratch, written as its base's files look: 16-bit safetensors and the tokenizer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from transformers import PreTrainedModel

from taigi_lightning.model.publish import CONFIG, publish_model
from taigi_lightning.model.safetensors_files import tokenizer_files


def export_full_model(model: PreTrainedModel, base: str, output: Path, max_shard_size: str) -> None:
    """Write every weight in bfloat16, with config, index and the base's tokenizer files as they are.

    Args:
        model: the trained model; its own dtype stays as it is.
        base: the folder, or the Hub name, whose tokenizer files are copied.
        output: the folder to write into; written aside first.
        max_shard_size: largest safetensors file, for example "4GB" or "5MB".
    """
    aside = output / "model.partial"
    shutil.rmtree(aside, ignore_errors=True)
    state = {name: value.to(torch.bfloat16) for name, value in model.state_dict().items()}
    model.save_pretrained(str(aside), state_dict=state, max_shard_size=max_shard_size)
    # save_pretrained records what training needed: the model's own dtype, and no cache.
    config = json.loads((aside / CONFIG).read_text(encoding="utf-8"))
    config |= {"dtype": "bfloat16", "use_cache": True}
    (aside / CONFIG).unlink()
    for file in tokenizer_files(base):
        shutil.copyfile(file, aside / file.name)
    publish_model(aside, output, (json.dumps(config, indent=2) + "\n").encode())

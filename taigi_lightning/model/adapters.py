"""LoRA adapters: attached, loaded and saved by PEFT, in PEFT's own format."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse.typing import ClosedUnitInterval, PositiveInt
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from safetensors.torch import load, load_file, save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from taigi_lightning.atomic_write import written_aside
from taigi_lightning.errors import InputError
from taigi_lightning.model.linear_targets import LINEAR, default_targets, linear_projections, used_projections
from taigi_lightning.model.lora_deltas import check_ranks
from taigi_lightning.model.merge_places import adapted_shapes, text_names
from taigi_lightning.model.new_tokens import save_tokenizer
from taigi_lightning.model.safetensors_files import TensorEntry, read_header
from taigi_lightning.model.text_model import wrapper_prefixes
from taigi_lightning.model.token_rows import load_rows, rows_to_save
from taigi_lightning.planning.run_files import ADAPTER_CONFIG, TOKEN_INDICES, adapter_config
from taigi_lightning.windows import portable


@dataclass
class LoraSettings:
    """A low-rank update beside each chosen Linear (Hu et al. 2021): W x + lora_alpha / r * B (A x).

    For a Linear with weights [out, in], A is [r, in] and B [out, r], both float32.

    Args:
        r: rank of the update.
        lora_alpha: the update is scaled by lora_alpha / r.
        lora_dropout: dropout on the input of the update, never on the frozen product.
        target_modules: names of the Linear layers that get one; null means all of the text model but its output layer.
    """

    r: PositiveInt = 16
    lora_alpha: PositiveInt = 32
    lora_dropout: ClosedUnitInterval = 0.0
    target_modules: list[str] | None = None


def attach_adapter(model: PreTrainedModel, lora: LoraSettings) -> PeftModel:
    """Wrap `model` with a fresh adapter: A random, B zero, both float32; nothing else trains.

    Raises:
        InputError: a target name is no layer of the model, or is its output layer; or there is nothing to adapt.
    """
    targets = lora.target_modules
    if targets is None:
        targets = default_targets(model)
        if not targets:
            raise InputError(
                f"{type(model).__name__} has no linear projection that LoRA can adapt. Use another base."
            )
    else:
        check_targets(model, targets)
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config, autocast_adapter_dtype=True)


def check_targets(model: PreTrainedModel, targets: Sequence[str]) -> None:
    """Refuse target names that adapt nothing, in full or in part.

    Raises:
        InputError: a name is no layer of the model, no linear one, its output layer, or one that trains nothing.
    """
    head, used = model.get_output_embeddings(), used_projections(model)
    modules = {name: module for name, module in model.named_modules() if name}
    for target in targets:
        found = [name for name in modules if name == target or name.endswith(f".{target}")]
        other = next((modules[name] for name in found if not isinstance(modules[name], LINEAR)), None)
        if any(modules[name] is head for name in found):
            reason = (
                f"{target} in target_modules would not train: the loss is computed from its frozen weight."
            )
        elif not found:
            reason = f"No layer of {type(model).__name__} is called {target}, as in target_modules."
        elif other is not None:
            reason = f"{target} in target_modules is an {type(other).__name__}, not a linear projection."
        elif not any(name in used for name in found):
            reason = f"{target} in target_modules would train nothing: no gradient reaches its product."
        else:
            continue
        raise InputError(
            f"{reason} The linear projections of {type(model).__name__} that train are "
            f"{', '.join(default_targets(model))}; leave target_modules out for all of them."
        )


def load_adapter(
    model: PreTrainedModel, adapter: str, *, trainable: bool, dropout: float | None = None
) -> PeftModel:
    """Wrap `model` with a saved adapter; its rank, scale and layers are those it was trained with.

    Args:
        model: a transformers causal language model.
        adapter: the saved adapter's folder.
        trainable: whether it is to train on.
        dropout: on the input of its update from now on; None: as it was trained.

    Raises:
        InputError: the folder is not an adapter, or not one for this model.
    """
    check_adapter(adapter)
    header = read_header(Path(adapter) / "adapter_model.safetensors")
    check_ranks(Path(adapter), adapter_config(Path(adapter)), header)
    prefix, ending = "base_model.model.", ".lora_A.weight"
    saved = [name.removeprefix(prefix).removesuffix(ending) for name in header if name.endswith(ending)]
    names = text_names(saved, {name for name, _ in model.named_modules()})
    _check_sizes(model, adapter, header, names)
    config = PeftConfig.from_pretrained(adapter)
    config.inference_mode = not trainable
    if dropout is not None:
        config.lora_dropout = dropout
    config.trainable_token_indices = None  # read by `load_rows`
    mapping = None
    if any(name != inner for name, inner in names.items()):  # saved for the model that wraps this one
        config.exclude_modules = None
        mapping = {f"^{re.escape(name)}\\.": f"{inner}." for name, inner in names.items()}
    loaded = PeftModel.from_pretrained(
        model,
        adapter,
        is_trainable=trainable,
        autocast_adapter_dtype=True,
        config=config,
        key_mapping=mapping,
    )
    adapted = {name.removesuffix(".weight") for name in adapted_shapes(loaded.get_base_model())}
    if strange := sorted(set(names.values()) ^ adapted):
        raise InputError(
            f"{adapter} does not fit {type(model).__name__}: {len(strange)} layers have LoRA in one of them alone, "
            f"such as {strange[0]}. Give the base that the adapter was trained on."
        )
    _restore(loaded, Path(adapter) / "adapter_model.safetensors", names)
    load_rows(loaded.get_base_model(), Path(adapter), trainable=trainable)
    return loaded


def _check_sizes(
    model: PreTrainedModel, adapter: str, header: Mapping[str, TensorEntry], names: Mapping[str, str]
) -> None:
    """Refuse matrices that do not fit the layers of their names: those of a base of other sizes."""
    layers = linear_projections(model)
    for name, inner in names.items():
        layer: Any = layers.get(inner)
        if layer is None:
            continue  # which names are there is compared when all is loaded
        wanted = (
            (layer.nf, layer.nx) if isinstance(layer, Conv1D) else (layer.out_features, layer.in_features)
        )
        a, b = (header.get(f"base_model.model.{name}.{part}.weight") for part in ("lora_A", "lora_B"))
        if a is None or b is None or (b.shape[0], a.shape[1]) != wanted:
            found = "no lora_B" if a is None or b is None else f"[{b.shape[0]}, {a.shape[1]}]"
            raise InputError(
                f"{adapter} does not fit {type(model).__name__}: it changes {name} as {found}, and the layer is "
                f"{list(wanted)}. Give the base that the adapter was trained on."
            )


def _restore(model: PeftModel, file: Path, names: Mapping[str, str]) -> None:
    """Copy A and B into a loaded adapter: PEFT passes over some whose names transformers changes in what it reads.

    Args:
        names: of the modules in the model, by those in the file.
    """
    base, tensors = model.get_base_model(), load_file(file)
    for name, inner in names.items():
        module: Any = base.get_submodule(inner)
        for part in ("lora_A", "lora_B"):
            weight = getattr(module, part)["default"].weight
            weight.data.copy_(tensors[f"base_model.model.{name}.{part}.weight"])


def adapter_settings(adapter: str) -> LoraSettings:
    """Read back the settings an adapter was trained with.

    Raises:
        InputError: the folder is not an adapter.
    """
    check_adapter(adapter)
    config = PeftConfig.from_pretrained(adapter)
    return LoraSettings(config.r, config.lora_alpha, config.lora_dropout, _listed(config.target_modules))


def _listed(targets: Collection[str] | str | None) -> list[str] | None:
    """Target modules as a list; a pattern stays one."""
    return [targets] if isinstance(targets, str) else sorted(targets or ()) or None


def save_adapter(
    model: PeftModel, folder: Path, base: str, tokenizer: PreTrainedTokenizerBase | None = None
) -> None:
    """Write adapter_config.json and adapter_model.safetensors aside, then swap them in.

    Args:
        model: the trained PEFT model.
        folder: where the adapter goes; an earlier one there is replaced as a whole.
        base: written as the adapter's `base_model_name_or_path`.
        tokenizer: goes with it where rows of tokens were trained, and only then.
    """
    model.peft_config["default"].base_model_name_or_path = portable(base)
    with written_aside(folder) as aside:
        model.save_pretrained(str(aside), save_embedding_layers=False)
        # PEFT's template, which names a folder as the base's home.
        (aside / "README.md").unlink(missing_ok=True)
        _add_rows(model, aside, tokenizer)
        if prefixes := wrapper_prefixes(base):
            _name_as_wrapped(aside, *prefixes)


def _add_rows(model: PeftModel, folder: Path, tokenizer: PreTrainedTokenizerBase | None) -> None:
    """Put trained rows of tokens into a saved adapter, as PEFT's `trainable_token_indices` has them."""
    indices, rows = rows_to_save(model)
    if not indices:
        return
    file = folder / "adapter_model.safetensors"
    save_file({**load_file(file), **rows}, file, metadata={"format": "pt"})
    config = {**adapter_config(folder), TOKEN_INDICES: indices}
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8", newline="\n")
    if tokenizer is not None:
        save_tokenizer(tokenizer, folder)


def _name_as_wrapped(folder: Path, inner: str, outer: str) -> None:
    """Let PEFT find a saved adapter's layers in the model that plain transformers loads, around the text model."""
    file, start = folder / "adapter_model.safetensors", "base_model.model."
    saved = load(file.read_bytes())  # not mapped: Windows lets nobody write a file anew that is
    tensors = {name.replace(start + inner, start + outer, 1): tensor for name, tensor in saved.items()}
    save_file(tensors, file, metadata={"format": "pt"})
    config = adapter_config(folder)
    config["exclude_modules"] = f"(?!{re.escape(outer)}).*"  # other towers have layers of the same names
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8", newline="\n")


def check_adapter(adapter: str) -> None:
    """Refuse a folder that is not a LoRA adapter of PEFT's.

    Raises:
        InputError: adapter_config.json or adapter_model.safetensors is missing, or it is of another kind than LoRA.
    """
    for name in (ADAPTER_CONFIG, "adapter_model.safetensors"):
        if not (Path(adapter) / name).is_file():
            raise InputError(
                f"{adapter} holds no {name}, so it is not a PEFT adapter. Give the `adapter` folder that a "
                "finished `fit` leaves, for example models/final_model/adapter."
            )
    if (kind := adapter_config(Path(adapter)).get("peft_type")) != "LORA":
        raise InputError(
            f"The adapter in {adapter} is of PEFT's kind {kind}; only LoRA is trained, merged and used here. Merge it "
            "into its base with PEFT's merge_and_unload and give that, or train a LoRA adapter."
        )

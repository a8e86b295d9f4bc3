"""`upload`: a finished model and its adapter to the Hugging Face Hub, each with its card."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from taigi_lightning.errors import InputError
from taigi_lightning.model.publish import CONFIG
from taigi_lightning.model.safetensors_files import TOKENIZER_FILES
from taigi_lightning.planning.run_files import ADAPTER_CONFIG, adapter_config
from taigi_lightning.reports.model_card import ADAPTER, CARD, write_model_cards
from taigi_lightning.reports.model_origin import hub_name
from taigi_lightning.terminal import print_line

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd

Part = Literal["both", "merged", "adapter"]
NAME_OF_BASE = "base_model_name_or_path"
# What others load a model with. Checkpoints, logs, configs and lineage.json stay: they name folders of this machine.
SENT = ("*.safetensors", "*.safetensors.index.json", CONFIG, "generation_config.json", CARD, ADAPTER_CONFIG)


def upload_command(
    folder: Path,
    name: str,
    *,
    part: Part = "both",
    private: bool = True,
    license: str | None = None,
    language: str = "nan",
    base_model: str | None = None,
    datasets: Sequence[str] = (),
) -> None:
    """Send a finished model to the Hugging Face Hub: what others load it with, and its card.

    Args:
        folder: what `fit` or `merge` left, such as models/final_model.
        name: OWNER/NAME of the merged model; its adapter becomes OWNER/NAME-adapter.
        part: both, or one of them.
        private: make the repositories visible to you alone; those that are there already stay as they are.
        license: for the card, as the Hub spells it; without it, what is known of the base.
        language: for the card, the ISO 639 code of the language that the model was taught.
        base_model: the base's name on the Hub, where the run began from a folder.
        datasets: for the card, names on the Hub of the data.
    """
    token = get_token()
    if token is None:
        raise InputError(
            "There is no token of yours for the Hub, and nothing is sent without one. Make one with the right to write "
            "in your account's settings there, then `hf auth login`."
        )
    parts = _parts(folder, name, part)
    if not (folder / CARD).is_file() or license or base_model or datasets or language != "nan":
        write_model_cards(folder, license, language, base_model, datasets)
    contents = {repository: _contents(place, base_model) for repository, place in parts.items()}
    api = HfApi(token=token)
    for repository, operations in contents.items():
        address = _send(api, repository, operations, private)
        print_line(f"{parts[repository]}: {len(operations)} files are at {address}")


def _parts(folder: Path, name: str, part: Part) -> dict[str, Path]:
    """Folders to send, by the repository that each becomes.

    Raises:
        InputError: one of them holds no such thing, or the name is none of the Hub's.
    """
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise InputError(f"{name} cannot be a name on the Hub: {error}") from error
    if name.count("/") != 1:
        raise InputError(f"{name} names no owner. Give OWNER/NAME, OWNER being you or your organisation.")
    found = {}
    if part != "adapter":
        if not (folder / CONFIG).is_file():
            raise InputError(
                f"{folder} holds no merged model. Give the folder that `fit` or `merge` left, or --part adapter."
            )
        found[name] = folder
    if part != "merged":
        adapter = folder if (folder / ADAPTER_CONFIG).is_file() else folder / ADAPTER
        if not (adapter / ADAPTER_CONFIG).is_file():
            raise InputError(f"{folder} holds no adapter. Give a run's folder, or --part merged.")
        found[f"{name}-adapter" if part == "both" else name] = adapter
    return found


def _contents(folder: Path, base_model: str | None) -> list[CommitOperationAdd]:
    """A folder's files as additions to a repository.

    Raises:
        InputError: an adapter's base is a folder of this machine, which nobody else has.
    """
    from huggingface_hub import CommitOperationAdd

    found = []
    for path in sorted(folder.iterdir()):
        if not path.is_file() or not any(
            fnmatch(path.name, pattern) for pattern in (*SENT, *TOKENIZER_FILES)
        ):
            continue
        content: Path | bytes = path
        if path.name == ADAPTER_CONFIG:
            content = _named_config(folder, base_model)
        found.append(CommitOperationAdd(path.name, content))
    return found


def _named_config(adapter: Path, base_model: str | None) -> bytes:
    settings = adapter_config(adapter)
    named = base_model or hub_name(str(settings.get(NAME_OF_BASE)))
    if named is None:
        raise InputError(
            f"The adapter in {adapter} belongs to the base {settings.get(NAME_OF_BASE)}, a folder that nobody else "
            "has. Name it as the Hub does: --base_model OWNER/BASE (for an adapter on a model that you merged, upload "
            "that one first), or give --part merged."
        )
    return (json.dumps({**settings, NAME_OF_BASE: named}, indent=2) + "\n").encode()


def _send(api: HfApi, repository: str, operations: Sequence[CommitOperationAdd], private: bool) -> str:
    """Make a repository, if it is not there, and add the files in one commit; returns its address.

    Raises:
        InputError: the Hub refuses it, cannot be reached, or does not take the files.
    """
    try:
        made = api.create_repo(repository, private=private, exist_ok=True)
        api.create_commit(repository, operations, commit_message="Upload from taigi-lightning")
    except (
        Exception
    ) as error:  # the client's, its transport's and its storage's errors have no class in common
        raise InputError(_why(repository, error)) from error
    return str(made)


def _why(repository: str, error: Exception) -> str:
    """What went wrong, by the first error of the chain that the Hub or the network has answered with."""
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    refused = next((one for one in chain if isinstance(one, HfHubHTTPError)), None)
    reason = str(refused or chain[-1]).strip().partition("\n")[0] or type(error).__name__
    again = "What had arrived stays there, nothing was changed here, and the same command tries again."
    if refused is not None:
        return (
            f"The Hub refuses {repository}: {reason} Does your token have the right to write there? `hf auth whoami` "
            f"says whose it is. {again}"
        )
    if isinstance(error, OfflineModeIsEnabled):
        return f"The Hub cannot be reached for {repository}: {reason} Unset HF_HUB_OFFLINE."
    return f"The Hub cannot be reached for {repository}, or did not take all of it: {reason}. {again}"

"""Ranks that load one base at the same time, forked from a process that has imported everything: a JSON line a case.

python -m tests.taigi_lightning.model.sharing_ranks BASE FOLDER RANKS:HOW...
"""

import hashlib
import json
import os
import signal
import sys
import traceback
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit
from torch import distributed

from taigi_lightning.errors import InputError
from taigi_lightning.model import shared_weights
from taigi_lightning.model.base_model import load_base_model


def shared_bytes() -> int:
    """Bytes of this process in memory that has no file on a disk and is shared, divided among those that map it."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss_Shmem:"))


def mappings(process: str = "self") -> list[tuple[range, str]]:
    """Addresses of the files of weights in memory that a process maps, and each file's number."""
    lines = Path(f"/proc/{process}/maps").read_text().splitlines()
    fields = [line.split() for line in lines if f"/memfd:{shared_weights.FILE}" in line]
    return [(range(*(int(end, 16) for end in line[0].split("-"))), line[4]) for line in fields]


def waiting(model: Any) -> list[bool]:
    """Whether each packed weight lies in such a file."""
    places = [addresses for addresses, _ in mappings()]
    weights = [module.weight for module in model.modules() if isinstance(module, Linear4bit)]
    return [any(weight.data_ptr() in addresses for addresses in places) for weight in weights]


def load(base: str, shared: bool, cache: str | None = None) -> Any:
    cpu = torch.device("cpu")
    return load_base_model(
        base,
        quantization="nf4",
        compute_dtype=torch.float32,
        device=cpu,
        weights_on_host=True,
        shared=shared,
        packed_cache=cache,
    )


def spoil(how: str, rank: int, base: str) -> str:
    """Make a rank's surroundings what a case wants; returns its base."""
    if how == "strangers":
        shared_weights._this_machine = lambda: ("machine", rank)
    if (how, rank) in (("hidden", 1), ("hidden leader", 0)):
        shared_weights._map_files = lambda *_: None
    return f"{base}-other" if (how, rank) == ("other", 1) else base


def one_rank(rank: int, ranks: int, base: str, store: Path, how: str) -> dict[str, Any]:
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    base = spoil(how, rank, base)
    warnings.simplefilter("always")
    with warnings.catch_warnings(record=True) as said:
        try:
            model = load(base, shared=how != "alone", cache=f"{base}-cache" if how == "cached" else None)
        except InputError as error:
            return {"refused": str(error)}
    distributed.barrier()
    found = {"bytes": shared_bytes(), "waiting": waiting(model), "files": [file for _, file in mappings()]}
    distributed.barrier()
    digest = hashlib.sha256()
    for parameter in model.parameters():
        digest.update(parameter.detach().numpy().tobytes())
    messages = [str(one.message) for one in said if "cannot share" in str(one.message)]
    return {**found, "weights": digest.hexdigest(), "said": messages}


def fork(rank: int, ranks: int, base: str, folder: Path, how: str) -> int:
    process = os.fork()
    if process == 0:
        try:
            found = one_rank(rank, ranks, base, folder / f"store-{ranks}-{how}", how)
            (folder / f"{ranks}-{how}-{rank}.json").write_text(json.dumps(found))
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return process


def mapped_anywhere() -> set[str]:
    """Numbers of all such files that any process maps."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended, or is another user's
            found |= {file for _, file in mappings(process.name)}
    return found


def main() -> None:
    base, folder = sys.argv[1], Path(sys.argv[2])
    load(base, shared=False, cache=f"{base}-cache")  # what is imported late is there
    for case in sys.argv[3:]:
        size, _, how = case.partition(":")
        processes = [fork(rank, int(size), base, folder, how) for rank in range(int(size))]
        codes = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]
        ranks = [json.loads(path.read_text()) for path in sorted(folder.glob(f"{size}-{how}-?.json"))]
        left = sorted(mapped_anywhere() & {file for rank in ranks for file in rank.get("files", ())})
        print(json.dumps({"case": case, "codes": codes, "ranks": ranks, "left": left}), flush=True)


if __name__ == "__main__":
    main()

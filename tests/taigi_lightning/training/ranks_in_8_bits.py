"""Two ranks, joined by gloo, that train in emulated int8_mixed: each leaves what it found in `rank-N.json`.

python -m tests.taigi_lightning.training.ranks_in_8_bits, in a folder with a base and a corpus
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from taigi_lightning.fast_path.apply import fast_decoder
from taigi_lightning.training import matmul_guard, stage_model
from taigi_lightning.training.kept_directions import directions_of
from tests.taigi_lightning.training.runs_in_8_bits import Stop, train

STOPPED = Path("stopped.ckpt")


def digest(tensors: Sequence[Tensor | None]) -> str:
    found = hashlib.blake2b(digest_size=8)
    for tensor in tensors:
        assert tensor is not None
        found.update(tensor.detach().numpy().tobytes())
    return found.hexdigest()


def train_both(*callbacks: Callback, checkpoint: Path | None = None) -> pl.Trainer:
    """Four steps, of four rows of 64 tokens a rank."""
    ranks: dict[str, Any] = {"devices": 2, "strategy": "ddp"}
    return train("int8_mixed", 4, *callbacks, checkpoint=checkpoint, dropout=0.0, **ranks)


def found(trainer: pl.Trainer) -> dict[str, str]:
    """Digests of what a rank's inputs are split along and of its adapter, and what its products are in."""
    module: Any = trainer.lightning_module
    decoder = fast_decoder(module.model)
    assert decoder is not None
    directions = directions_of(module) if decoder.matmul == "int8_mixed" else []
    return {
        "directions": digest(directions),
        "adapter": digest(list(module.state_dict().values())),
        "matmul": decoder.matmul,
    }


def main() -> None:
    """An unbroken run, one that goes on from its second step, and one in which one rank alone finds it too far."""
    stage_model.check_matmul = lambda *_: None  # a CPU would be refused
    whole = train_both(Stop(STOPPED))
    runs = {"whole": found(whole), "resumed": found(train_both(checkpoint=STOPPED))}
    if whole.global_rank == 1:
        matmul_guard.cosine_of = lambda *_: -1.0
    runs["given up"] = found(train_both())
    Path(f"rank-{whole.global_rank}.json").write_text(json.dumps(runs))


if __name__ == "__main__":
    main()

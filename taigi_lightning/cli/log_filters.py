"""What libraries say that no user of this project can act on, kept out of the output."""

from __future__ import annotations

import logging
import os
import warnings


def quieten() -> None:
    """Keep advertisements and warnings that no user can act on out of the output.

    Of several processes the first one alone warns: each reads the same data and settings.
    """
    if any(int(os.environ.get(name) or 0) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID")):
        logging.getLogger("taigi_lightning").setLevel(logging.ERROR)
    noise = (
        "litlogger",
        "To properly utilize them",
        "TPU available",
        "GPU available",
        "Seed set",
        "` stopped: `max_",
    )
    for name in ("pytorch.utilities.rank_zero", "fabric.utilities.seed"):
        logger = logging.getLogger(f"lightning.{name}")
        logger.addFilter(lambda record: not any(words in record.getMessage() for words in noise))
    for message in (
        ".*does not have many workers.*",
        ".*isinstance\\(treespec, LeafSpec\\).*",
        ".*You have overridden `on_before_batch_transfer`.*",
        ".*is_gradient_checkpointing` is deprecated.*",
        ".*when logging on epoch level in distributed setting.*",  # what is logged is of all processes already
        ".*AccumulateGrad node's stream does not match.*",  # Lightning wraps in DDP on a stream of its own
    ):
        warnings.filterwarnings("ignore", message=message)

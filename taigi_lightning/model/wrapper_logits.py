"""What a wrapper's own class does to the logits of its text model otherwise than that text model's class."""

from __future__ import annotations

import inspect
from pathlib import Path

from taigi_lightning.model.text_model import is_wrapped, text_model_class, whole_class

# Settings of a text model by which its class scales or caps logits.
SCALES = ("logit_scale", "logits_scaling", "final_logit_softcapping")


def left_out_by_wrapper(base: str | Path) -> list[str]:
    """A sentence for each setting that the text model's class applies to its logits and the wrapper's class does not.

    Read off both classes' source: their `forward` names a setting or does not (Cohere 2 in Aya Vision, say). Then what
    was learnt is as likely as a run says in the text model's class alone.
    """
    if not is_wrapped(base):
        return []
    inner, config = text_model_class(base)
    outer = whole_class(base)
    if outer is None or outer is inner:
        return []
    sources = [inspect.getsource(kind.forward) for kind in (inner, outer)]
    named = [[name for name in SCALES if name in source] for source in sources]
    values = {name: getattr(config, name, None) for name in named[0] if name not in named[1]}
    return [
        f"logits are scaled by {name} {value}, as {inner.__name__} does; plain {outer.__name__} leaves that out, so "
        "its probabilities are others, in the same order"
        for name, value in values.items()
        if value not in (None, 1)
    ]

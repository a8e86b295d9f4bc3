"""Loading a 16-bit base plainly and with its packed weights waiting on the host: the same bits, the card's peaks.

python tests/benchmarks/stream_loader.py --layers 6          # writes and reads a base of the 13B's width
"""

import argparse
import json
import os
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")

import bitsandbytes as bnb
import torch
from random_base import TAIGI_13B, llama_config
from stream_base import CUDA, DEVICE
from stream_points import GIB, limit_to
from transformers import LlamaForCausalLM

from taigi_lightning.model.base_model import load_base_model


def loader(folder: Path, layers: int) -> None:
    """A 16-bit base of the 13B's width, loaded plainly and with its weights waiting on the host: bits, peaks."""
    small = {} if CUDA else {"hidden": 128, "intermediate": 256, "heads": 4, "kv_heads": 4, "head_size": 32}
    shape = replace(TAIGI_13B, layers=layers, vocabulary=1024, **small)
    with torch.device(DEVICE):
        model = LlamaForCausalLM(llama_config(shape)).to(torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="1GB")
    del model
    device, found = torch.device(DEVICE), []
    for on_host in (False, True):
        limit_to(0)
        start = time.perf_counter()
        loaded = load_base_model(str(folder), quantization="nf4", compute_dtype=torch.bfloat16, device=device,
                                 weights_on_host=on_host)  # fmt: skip
        seconds = time.perf_counter() - start
        peak = torch.cuda.max_memory_allocated() / GIB if CUDA else 0.0
        found.append({n: p.data.cpu() for n, p in loaded.named_parameters()})
        for name, p in loaded.named_parameters():
            if isinstance(p, bnb.nn.Params4bit):
                found[-1] |= {f"{name}.{k}": v.cpu() for k, v in p.quant_state.as_dict(packed=True).items()}
        result = {
            "loader": "host" if on_host else "card",
            "seconds": round(seconds, 2),
            "card_peak_gib": round(peak, 2),
        }
        del loaded
        print("RESULT " + json.dumps(result), flush=True)
    same = sum(torch.equal(found[1][n], found[0][n]) for n in found[0])
    print("RESULT " + json.dumps({"loader": "tensors", "all": len(found[0]), "same": same}), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("stream_base"))
    parser.add_argument("--layers", type=int, default=6)
    given = parser.parse_args()
    loader(given.folder, given.layers)

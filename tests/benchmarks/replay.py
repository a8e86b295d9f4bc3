"""What CPT on new texts alone forgets, and what a share of old ones keeps: the tiny model, through the real commands.

    python -m tests.benchmarks.replay OUTPUT  # --steps, --share; minutes on two cores

The embedded base has learnt reading exercises. It goes on with the sample corpus alone, and with a share of the rows
taken from exercises; its loss on held-out documents of both is measured before and after. What was found: README.
"""

import argparse
import re
from collections.abc import Mapping
from pathlib import Path

from taigi_lightning.demo import CPT, Step, run_step

BASE = "models/tiny-taigi"


def measure(folder: Path, steps: int, share: float) -> dict[str, dict[str, float]]:
    """Held-out losses in nats a token, by model (base, alone, replay) and corpus (new, old)."""
    data = {"new": folder / "data" / "cpt_corpus", "old": folder / "data" / "replay"}
    sample = ("corpus_tools", "sample", str(folder / "data"), "--pretraining_documents", "400")
    run_step(Step("sample", sample), folder)
    sources = {"new": ("IMA-Taiwan",), "old": ("pretraining", "--min_chars=50")}
    for name, (source, *more) in sources.items():
        clean = ("clean", str(folder / "data" / source), "--output_dir", str(data[name]), *more)
        run_step(Step(f"clean-{name}", ("corpus_tools", *clean)), folder)
    mixed = f"{{{data['new']}: {1 - share}, {data['old']}: {share}}}"
    for name, corpus in {"alone": str(data["new"]), "replay": mixed}.items():
        options = (f"--trainer.max_steps={steps}", f"--trainer.default_root_dir={folder / name}")
        place = (f"--model.base={BASE}", f"--data.init_args.data_dir={corpus}", "--run.overwrite=true")
        run_step(Step(name, ("taigi_lightning", "fit", *CPT, *options, *place)), folder)
    models = {"base": Path(BASE), "alone": folder / "alone", "replay": folder / "replay"}
    return {
        name: {kind: held_out_loss(name, model, kind, data, folder) for kind in data}
        for name, model in models.items()
    }


def held_out_loss(name: str, model: Path, kind: str, data: Mapping[str, Path], folder: Path) -> float:
    """The loss of a model on the held-out documents of a corpus."""
    place = (f"--model.base={model}", "--model.lora=null", f"--data.init_args.data_dir={data[kind]}")
    said = run_step(Step(f"{name}-on-{kind}", ("taigi_lightning", "validate", *CPT, *place)), folder)
    found = re.search(r"val/loss[^0-9]*([0-9.]+)", said)
    assert found, said[-2000:]
    return float(found[1])


def main() -> None:
    """Measure, and print a row for each model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--share", type=float, default=0.2)
    options = parser.parse_args()
    for name, losses in measure(options.output, options.steps, options.share).items():
        print(f"{name:<8}" + "".join(f"{kind}: {loss:.3f}  " for kind, loss in losses.items()))


if __name__ == "__main__":
    main()

"""YAML files that hold something wrong; each lies in a folder of its own, as configs do."""

from tests.wrong_inputs.case import Case

FIT = "taigi_lightning fit --config configs/cpt.yaml --config configs/tiny.yaml --model.base models/base"


def wrong(text: str | bytes, *words: str, name: str = "own/over.yaml", code: int = 2) -> Case:
    """A config laid over the CPT stage's, and what is said of it beside its name."""
    number = wrong.__dict__.setdefault("count", 0)
    wrong.__dict__["count"] = number + 1
    name = name.replace("over", f"over{number}")
    return Case(f"{FIT} --config {name}", (name, *words) if code == 2 else words, code, {name: text})


CONFIGS = [
    wrong("trainer:\n  max_steps: many\n", "line 2", "'many'", "whole number"),
    wrong("trainer: {max_steps: 1.5}\n", "line 1", "'1.5'"),
    wrong("trainer:\n  max_step: 3\n", "line 2", "Did you mean trainer.max_steps"),
    wrong("modle:\n  base: b\n", "line 2", "modle", "model"),
    wrong("model:\n  lora: {r: 4, lora_aplha: 8}\n", "line 2", "lora_alpha"),
    wrong("model:\n  lora:\n    r: -3\n", "line 3", "'-3'", "above 0"),
    wrong("model:\n  quantization: nf5\n", "line 2", "nf4, none"),
    wrong("model:\n  optimizer:\n    init_args: {lr: abc}\n", "line 3", "'abc'", "a number"),
    wrong("model:\n  optimizer: {class_path: torch.optim.Adamm}\n", "line 2", "torch.optim.Adam"),
    wrong("model:\n  optimizer: {class_path: os.system}\n", "line 2", "os.system", "torch.optim.Optimizer"),
    wrong(
        "model:\n  optimizer:\n    class_path: builtins.exec\n    init_args: {source: 'open(\"x\", \"w\")'}\n",
        "line 3", "builtins.exec",
    ),
    wrong("model:\n  optimizer:\n    class_path: torch.optim.SGD\n    init_args: {lrr: 1}\n", "line 4", "lrr"),
    wrong("data:\n  init_args: {batch_size: 0}\n", "line 2", "'0'", "above 0"),
    wrong("data:\n  init_args: {tokenizer: models/another}\n", "line 2", "model.base"),
    wrong("data:\n  class_path: SFTDataModul\n", "line 2", "SFTDataModule"),
    wrong("data:\n  class_path: subprocess.Popen\n", "line 2", "subprocess.Popen"),
    wrong("trainer:\n  callbacks:\n    - class_path: EarlyStoping\n", "line 3", "EarlyStopping"),
    wrong("trainer:\n  logger:\n    class_path: os.mkdir\n    init_args: {path: made}\n", "line 3", "os.mkdir"),
    wrong("trainer:\n  devices: 99\n", "99", "cores", code=1),
    wrong("", "empty"),
    wrong("# nothing yet\n", "empty"),
    wrong("- model\n", "no settings"),
    wrong("just words\n", "no settings"),
    wrong("model: {base: b\ntrainer: 3\n", "line 2", "not YAML"),
    wrong("model:\n\tbase: b\n", "line 2", "not YAML"),
    wrong("model:\n  base: a\n base: b\n", "not YAML"),
    wrong("model: &a\n  base: *b\n", "line 2", "not YAML"),
    wrong("model:\n  base: b\n".encode("utf-16-le"), "UTF-8"),
    wrong("# 台語\nmodel:\n  base: b\n".encode("big5"), "UTF-8"),
    wrong(b"\x00\x01\x02", "YAML"),
    wrong("seed_everything: often\n", "line 1", "'often'"),
    wrong("checkpoint:\n  save_top_k: all\n", "line 2", "'all'", "whole number"),
    wrong("export:\n  merg: true\n", "line 2", "merge"),
    wrong("model: models/base\n", "line 1", "model"),
    wrong("trainer:\n", "trainer"),
]  # fmt: skip

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
    wrong("model:\n  base: a\n  base: models/base\n", "line 3", "base is there twice", "line 2"),
    wrong("trainer: {max_steps: 3}\nmodel: {}\ntrainer: {max_steps: 4}\n", "line 3", "trainer is there twice"),
    wrong("3: 4\n", "line 1", "'3'", "no name"),
    wrong("yes: 4\n", "line 1", "'yes'", "no name"),
    wrong("? [a]\n: 4\n", "line 1", "no name"),
    wrong("model: !!python/object/apply:os.system [ls]\n", "line 1", "os.system", "plain value"),
    wrong("model: {base: !secret b}\n", "line 1", "'!secret'", "plain value"),
    wrong("a: " + "[" * 3000 + "]" * 3000 + "\n", "nested too deeply"),
    wrong("model: {base: a}\n---\nmodel: {base: b}\n", "line 2", "not YAML"),
    wrong(f"trainer:\n  max_steps: {10**25}\n", "line 2", "at most 9223372036854775807"),
    wrong("model:\n  lora: {lora_dropout: .nan}\n", "line 2", "'nan'", "from 0 to 1"),
    wrong("trainer:\n  callbacks: [3]\n", "line 2", "'3'", "EarlyStopping"),
    wrong("model:\n  lora:\n    target_modules: 3\n", "line 3", "'3'", "a list"),
    wrong("data:\n  init_args:\n    data_dir: {a: x}\n", "line 3", "holds 'x'", "a number"),
    wrong('"mod\\e[2Kel": 4\n', "line 1", "mod\\x1b[2Kel"),
]  # fmt: skip

"""One wrong input."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Case:
    """A command line that must be refused.

    Args:
        command: what is typed after `python -m`, as a shell splits it.
        words: what the answer names: the place, what was wanted, the remedy.
        code: the exit code: 2 where the command line or a config is wrong, 1 where data are.
        files: what lies in the folder beside a base, a corpus and the configs, by path.
        light: whether it is refused before anything heavy is imported.
    """

    command: str
    words: tuple[str, ...]
    code: int = 2
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    light: bool = True

    def __str__(self) -> str:
        usual = " --config configs/cpt.yaml --config configs/tiny.yaml"
        return self.command.removeprefix("taigi_lightning ").replace(usual, "")[:80]

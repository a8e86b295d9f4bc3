"""The README's section on another task and another language, line by line, for a made-up language."""

import random
import re
from pathlib import Path

import pytest

from tests.test_readme import link_project, run
from tests.warm_python import WarmPython
from tests.working_folder import ROOT

SECTIONS = {"README.md": "Another task, another language", "README.zh-TW.md": "換成別的題目、別的語言"}
# What makes of a line one for two cores and a minute.
SMALL = "--config configs/tiny.yaml --data.init_args.max_length 256"
FEW = f"{SMALL} --trainer.max_steps 2 --trainer.limit_val_batches 1 --samples.new_tokens 0"
FORMS = {
    "fit --config configs/cpt.yaml": FEW,
    "fit --config configs/sft.yaml": f"{FEW} --model.base models/my_cpt",
    "predict": f"{SMALL} --model.base models/my_cpt",
}


def section(readme: str) -> tuple[str, list[str]]:
    """The YAML and the commands of a README's section."""
    text = (ROOT / readme).read_text(encoding="utf-8")
    found = text.partition(f"## {SECTIONS[readme]}\n")[2].partition("\n## ")[0]
    yaml, commands = (
        re.findall(rf"```{kind}\n(.*?)```", found, flags=re.DOTALL)[0] for kind in ("yaml", "sh")
    )
    return yaml, commands.splitlines()


def write_language(folder: Path) -> None:
    """Stories and questions of three options, in words that nobody has."""
    draw = random.Random(0)
    words = ["".join(draw.choice(["ka", "mo", "lu", "ti", "se"]) for _ in range(3)) for _ in range(60)]
    stories = [" ".join(draw.choices(words, k=12)) + "." for _ in range(120)]
    (folder / "data" / "texts").mkdir(parents=True)
    for number in range(12):
        text = "\n".join(stories[10 * number : 10 * number + 10])
        (folder / "data" / "texts" / f"story{number}.txt").write_text(text, encoding="utf-8")
    (folder / "data" / "texts" / "stories.txt").write_text("\n".join(stories[:9]), encoding="utf-8")
    rows = ["ID,story,ask,a,b,c,Answer"]
    for number, story in enumerate(stories[:24]):
        rows.append(
            f"{number},{story},{words[number]}?,{','.join(draw.sample(words, 3))},{'ABC'[number % 3]}"
        )
    (folder / "data" / "questions.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def test_both_readmes_tell_the_same() -> None:
    assert section("README.md") == section("README.zh-TW.md")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    link_project(tmp_path)
    write_language(tmp_path)
    (tmp_path / "my_task.yaml").write_text(section("README.md")[0], encoding="utf-8")
    return tmp_path


def test_the_section_is_followed_line_by_line(home: Path, warm_python: WarmPython) -> None:
    said = {}
    for line in section("README.md")[1]:
        command = line.removeprefix("python -m ")
        more = next((more for form, more in FORMS.items() if f"taigi_lightning {form}" in command), "")
        said[command.split()[1]] = run(warm_python.executable, home, f"{command} {more}")
    answers = (home / "data" / "my-answers.csv").read_text(encoding="utf-8").split()
    assert len(answers) == 25 and {line.rpartition(",")[2] for line in answers[1:]} <= {"A", "B", "C"}
    assert "24" in said["score"]
    assert "hak" in (home / "models" / "my_cpt" / "README.md").read_text(encoding="utf-8")

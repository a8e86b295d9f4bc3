"""Questions are asked as they were in training, or not at all."""

from pathlib import Path

import pytest
import yaml

from taigi_lightning.errors import InputError
from taigi_lightning.tasks.question_prompt import QuestionPrompt
from taigi_lightning.training.prompt_style import check_prompt_style


@pytest.mark.parametrize("trained", [True, False])
def test_another_rendering_than_in_training_is_refused(tmp_path: Path, trained: bool) -> None:
    data = {"class_path": "taigi_lightning.data.sft.SFTDataModule", "init_args": {"chat_template": trained}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"data": data}))
    for base, adapter in (("elsewhere", str(tmp_path / "adapter")), (str(tmp_path), None)):
        check_prompt_style(base, adapter, trained)
        with pytest.raises(InputError, match=f"Set --data.init_args.chat_template {str(trained).lower()}"):
            check_prompt_style(base, adapter, not trained)


@pytest.mark.parametrize(
    "config", [None, "data: {class_path: CPTDataModule, init_args: {}}", "data: null", "data: [", "model: {}"]
)
def test_what_no_run_on_questions_left_says_nothing(tmp_path: Path, config: str | None) -> None:
    if config is not None:
        (tmp_path / "config.yaml").write_text(config)
    for style in (True, False):
        check_prompt_style(str(tmp_path), None, style)


def test_a_run_from_before_the_option_asked_without(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("data: {class_path: SFTDataModule, init_args: {packing: false}}")
    check_prompt_style(str(tmp_path), None, False)
    with pytest.raises(InputError, match="chat_template: false"):
        check_prompt_style(str(tmp_path), None, True)


def test_another_wording_than_the_runs_is_refused(tmp_path: Path) -> None:
    data = {
        "class_path": "taigi_lightning.SFTDataModule",
        "init_args": {"prompt": {"options": 3, "labels": "letters"}},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"data": data}), encoding="utf-8")
    check_prompt_style(str(tmp_path), None, False, QuestionPrompt(options=3, labels="letters"))
    with pytest.raises(InputError, match=r"another prompt.options and prompt.labels: 3, 'letters'"):
        check_prompt_style(str(tmp_path), None, False)

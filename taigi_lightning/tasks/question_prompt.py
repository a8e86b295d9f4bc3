"""How a multiple-choice question is written out: one template for training, validation, prediction and comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from taigi_lightning.errors import InputError
from taigi_lightning.tasks.text_template import TextTemplate

if TYPE_CHECKING:
    from taigi_lightning.tasks.questions import Question

FEWEST, MOST = 2, 10
LABELS = {"digits": tuple(str(number) for number in range(1, MOST + 1)), "letters": tuple("ABCDEFGHIJ")}
WHERE = "data.init_args.prompt"

Labels = Literal["digits", "letters"]
# What the default text says of four options called by digits, which is put otherwise where there are others.
OF_FOUR = "四個選項選出正確的選項編號(1-4)"
COUNTED = ("兩", "三", "四", "五", "六", "七", "八", "九", "十")


@dataclass(frozen=True)
class QuestionPrompt:
    r"""The text that a question becomes, up to where its answer goes, and what its answers are called.

    Args:
        text: the whole, with {passage}, {question} and {options}; what it ends with stands before the answer. The
            default says how many options there are and what they are called.
        option: one option, with {label} and {option}; in `text` they follow each other.
        options: how many each question has, 2 to 10.
        labels: what the options are called and the answer is: digits from 1, or letters from A.

    Raises:
        InputError: a placeholder is missing or unknown, or there are fewer than 2 or more than 10 options.

    >>> QuestionPrompt(text="{question}\n{options}=> ", option="{label}) {option}\n", options=2).answers
    ('1', '2')
    """

    text: str = (
        "根據前文內容回答問題\n前文：{passage}\n問題：{question}\n"
        f"根據問題，從以下{OF_FOUR}\n{{options}}答案："
    )
    option: str = "選項{label}：{option}\n"
    options: int = 4
    labels: Labels = "digits"

    def __post_init__(self) -> None:
        if not FEWEST <= self.options <= MOST:
            raise InputError(f"{WHERE}.options is {self.options}. Questions have {FEWEST} to {MOST} options.")
        if self.labels not in LABELS:
            raise InputError(f"{WHERE}.labels is {self.labels!r}. Use digits or letters.")
        if self.text == type(self).text:
            what = "編號" if self.labels == "digits" else "代號"
            said = f"{COUNTED[self.options - FEWEST]}個選項選出正確的選項{what}({self.answers[0]}-{self.answers[-1]})"
            object.__setattr__(self, "text", self.text.replace(OF_FOUR, said))
        for name, template, known, needed in (
            ("text", self.text, ("passage", "question", "options"), ("question", "options")),
            ("option", self.option, ("label", "option"), ("option",)),
        ):
            parsed = TextTemplate(f"{WHERE}.{name}", template)
            parsed.check(known, "a question")
            if missing := [field for field in needed if field not in parsed.placeholders]:
                raise InputError(
                    f"{WHERE}.{name} lacks {', '.join(f'{{{field}}}' for field in missing)}: without it nobody could "
                    "answer. Put it in."
                )

    @property
    def answers(self) -> tuple[str, ...]:
        """What the answers are called, in order."""
        return LABELS[self.labels][: self.options]

    @property
    def has_own_text(self) -> bool:
        """Whether the text is another than the default for these options and labels."""
        return self.text != QuestionPrompt(options=self.options, labels=self.labels).text

    @property
    def chance(self) -> float:
        """The accuracy of guessing."""
        return 1 / self.options

    def render(self, question: Question) -> str:
        """Write a question out, up to the place where its answer goes."""
        pairs = zip(self.answers, question.options, strict=True)
        line = TextTemplate("option", self.option)
        options = "".join(line.render({"label": label, "option": option}) for label, option in pairs)
        values = {"passage": question.passage, "question": question.question, "options": options}
        return TextTemplate("text", self.text).render(values)

    def fields(self) -> tuple[str, ...]:
        """What the options' columns are called here: option1, option2 and so on."""
        return option_fields(self.options)


def option_fields(count: int) -> tuple[str, ...]:
    """The fields of so many options.

    >>> option_fields(3)
    ('option1', 'option2', 'option3')
    """
    return tuple(f"option{number}" for number in range(1, count + 1))


def answer_names(answers: Sequence[str]) -> str:
    """Answers in a sentence.

    >>> answer_names(("1", "2", "3", "4")), answer_names(("A", "B"))
    ('1, 2, 3 or 4', 'A or B')
    """
    return f"{', '.join(answers[:-1])} or {answers[-1]}"


def question_prompt(prompt: QuestionPrompt | Mapping[str, Any]) -> QuestionPrompt:
    """A prompt as it is, or made of its fields, as a saved config or hparams have it."""
    return prompt if isinstance(prompt, QuestionPrompt) else QuestionPrompt(**prompt)


FOUR_CHOICE = QuestionPrompt()

"""Questions as the model reads them: encoded with their answers, batched by length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from taigi_lightning.tasks.prefix_tree import TokenTree, common_prefix_length, token_tree
from taigi_lightning.tasks.question_prompt import FOUR_CHOICE


@dataclass(frozen=True, slots=True)
class EncodedQuestion:
    """One question, in one order of its options, as token ids.

    Args:
        row: its row in the input, from 1.
        id: its ID there.
        prompt: token ids up to where the answers part, BOS included (`prompts.encode_prompt`).
        answers: the token ids of each shown answer from there on; mostly one token each.
        answer: the correct answer in the input's numbering, if known.
        rotation: the shown option p (from 0) is the input's option (p + rotation) mod as many as there are.
        labels: what the shown answers are called.
    """

    row: int
    id: str
    prompt: list[int]
    answers: tuple[list[int], ...]
    answer: int | None = None
    rotation: int = 0
    labels: tuple[str, ...] = FOUR_CHOICE.answers

    def sequences(self) -> list[list[int]]:
        """For each answer what the model must read to predict it: all tokens but the answer's last."""
        return [self.prompt + answer[:-1] for answer in self.answers]


class QuestionBatch:
    """Groups of questions, and their trees; those of one group share a beginning that is computed once.

    It stays on the CPU: `predict_batch` moves what it computes with. Having `to` keeps Lightning from
    walking through every token id in search of tensors.
    """

    def __init__(
        self, groups: Sequence[Sequence[EncodedQuestion]], trees: Sequence[TokenTree] | None = None
    ) -> None:
        self.groups = groups
        self.trees = [group_tree(group) for group in groups] if trees is None else trees

    @property
    def questions(self) -> list[EncodedQuestion]:
        """The questions of all groups, in order."""
        return [question for group in self.groups for question in group]

    def to(self, *_: Any, **__: Any) -> Self:
        """The batch itself, whatever the device."""
        return self


# ---- batches --------------------------------------------------------------------------------------

# Sharing pays where it saves this many tokens a question: a branching row needs a mask, or copies of keys.
MIN_SHARED = 32
# Where a mask is needed its cost grows with the square of the row.
MAX_SHARED_ROW = 4096


def plan_batches(
    questions: Sequence[EncodedQuestion], batch_tokens: int, *, share: bool = True
) -> list[QuestionBatch]:
    """Put every question into exactly one batch, rows of similar length together, the longest first.

    Longest first means that a batch too large for the memory fails at once.

    Args:
        questions: any order; the same questions give the same batches.
        batch_tokens: most tokens in one batch, padding included; a longer row goes alone.
        share: let questions with a long common beginning share a row.
    """
    groups = (
        _shared_groups(questions, min(MAX_SHARED_ROW, batch_tokens))
        if share
        else [[question] for question in questions]
    )
    rows = sorted(
        ((len(group) > 1, group_tree(group), group) for group in groups),
        key=lambda row: (row[0], -len(row[1].tokens), row[2][0].row, row[2][0].rotation),
    )
    batches: list[tuple[list[list[EncodedQuestion]], list[TokenTree]]] = []
    width, kind = 0, False
    for branches, tree, group in rows:
        if not batches or branches != kind or width * (len(batches[-1][0]) + 1) > batch_tokens:
            batches.append(([], []))
            width, kind = len(tree.tokens), branches
        batches[-1][0].append(group)
        batches[-1][1].append(tree)
    return [QuestionBatch(*batch) for batch in batches]


def _shared_groups(questions: Sequence[EncodedQuestion], longest: int) -> list[list[EncodedQuestion]]:
    """Group questions by common beginnings; in sorted order those with the longest are neighbours.

    Args:
        longest: tokens of the longest row that several questions may share.
    """
    groups: list[list[EncodedQuestion]] = []
    length = 0
    for question in sorted(questions, key=lambda q: (q.prompt, q.row, q.rotation)):
        if groups:
            shared = common_prefix_length([groups[-1][-1].prompt, question.prompt])
            longer = length + len(question.prompt) - shared
            if shared >= max(MIN_SHARED, len(question.prompt) // 4) and longer <= longest:
                groups[-1].append(question)
                length = longer
                continue
        groups.append([question])
        length = len(question.prompt)
    return groups


def group_tree(group: Sequence[EncodedQuestion]) -> TokenTree:
    """The row that holds a group: its paths are the questions' `sequences`, in order."""
    return token_tree([sequence for question in group for sequence in question.sequences()])

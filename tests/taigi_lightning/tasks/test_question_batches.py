"""Which questions share a row, and which rows a batch."""

from hypothesis import given
from hypothesis import strategies as st

from taigi_lightning.tasks.prefix_tree import token_tree
from taigi_lightning.tasks.question_batches import EncodedQuestion, QuestionBatch, plan_batches

DIGITS = ([501], [502], [503], [504])


def question(row: int, passage: int, length: int, own: int = 10) -> EncodedQuestion:
    """A prompt of `length` tokens of passage and `own` tokens of the question's own."""
    return EncodedQuestion(row, f"q{row}", [passage] * length + [100 + row] * own, DIGITS)


QUESTIONS = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 120), st.integers(1, 40)), max_size=30).map(
    lambda shapes: [question(row, *shape) for row, shape in enumerate(shapes, start=1)]
)


@given(QUESTIONS, st.integers(1, 500), st.booleans())
def test_every_question_is_in_exactly_one_batch(
    questions: list[EncodedQuestion], batch_tokens: int, share: bool
) -> None:
    batches = plan_batches(questions, batch_tokens, share=share)
    assert sorted(q.row for batch in batches for q in batch.questions) == [q.row for q in questions]


@given(QUESTIONS, st.integers(1, 500), st.booleans())
def test_a_batch_keeps_to_its_tokens(
    questions: list[EncodedQuestion], batch_tokens: int, share: bool
) -> None:
    """All but a single question that is longer by itself."""
    for batch in plan_batches(questions, batch_tokens, share=share):
        rows = [len(token_tree([q.prompt for q in group]).tokens) for group in batch.groups]
        assert len(batch.questions) == 1 or max(rows) * len(rows) <= batch_tokens


@given(QUESTIONS, st.randoms())
def test_the_plan_does_not_depend_on_the_order(questions: list[EncodedQuestion], random: object) -> None:
    shuffled = questions[:]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    plans = [
        [[[q.row for q in group] for group in batch.groups] for batch in plan_batches(order, 300)]
        for order in (questions, shuffled)
    ]
    assert plans[0] == plans[1]


def test_questions_on_one_passage_share_a_row_apart_from_plain_rows() -> None:
    questions = [question(1, 7, 100), question(2, 8, 90), question(3, 7, 100), question(4, 9, 95)]
    plan = plan_batches(questions, 1000)
    assert [[[q.row for q in group] for group in batch.groups] for batch in plan] == [
        [[4], [2]],
        [[1, 3]],
    ] or [[[q.row for q in group] for group in batch.groups] for batch in plan] == [[[1, 3]], [[4], [2]]]


def test_a_short_common_beginning_is_not_worth_a_mask() -> None:
    plan = plan_batches([question(1, 7, 20), question(2, 7, 20)], 1000)
    assert [[len(group) for group in batch.groups] for batch in plan] == [[1, 1]]


def test_the_longest_rows_come_first() -> None:
    plan = plan_batches([question(1, 1, 20), question(2, 2, 90), question(3, 3, 50)], 110)
    assert [[q.row for q in batch.questions] for batch in plan] == [[2], [3], [1]]


def test_a_batch_stays_where_it_is() -> None:
    batch = QuestionBatch([[question(1, 7, 3)]])
    assert batch.to("meta") is batch

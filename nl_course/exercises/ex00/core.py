"""Notebook 00's entry check: six quick questions, five minutes, and for each miss what to read again.

entry_check()                  a small form, usable by keyboard
questions()                    the same questions as text
answer("0.1", "(2, 5, 3)")     an answer without the form
"""

import re
from dataclasses import dataclass
from fractions import Fraction

from nl_course.errors import check_choice
from nl_course.exercises.framework.show import Page, say


@dataclass(frozen=True)
class Question:
    """`right` is one of `options`; `because` explains it; `again` is our two lines, `read` where more stands."""

    id: str
    topic: str
    text: str
    options: tuple[str, ...]
    right: str
    because: str
    again: str
    read: str


QUESTIONS = (
    Question(
        id="0.1",
        topic="shapes",
        text="`x` has shape (2, 5, 8) and `w` has shape (8, 3). What is the shape of `x @ w`?",
        options=("(2, 5, 3)", "(2, 8, 3)", "(10, 3)", "an error"),
        right="(2, 5, 3)",
        because="The product sums over the last axis of x and the first of w. The other axes of x stay.",
        again="A matrix product sums over the last axis of the left factor and the first of the right one. So "
        "(..., n) @ (n, m) gives (..., m). Write down the shapes of each line: most mistakes show there first.",
        read="PyTorch tutorials, 'Tensors'; Dive into Deep Learning, 2.3 Linear Algebra, on matrix multiplication.",
    ),
    Question(
        id="0.2",
        topic="broadcasting",
        text="`n = torch.arange(4)`. How many entries of `n[:, None] >= n[None, :]` are True?",
        options=("4", "6", "10", "16"),
        right="10",
        because="Comparing (4, 1) with (1, 4) compares all pairs, (4, 4). The diagonal and all below it are True.",
        again="An axis of size 1 is repeated until it fits. So a column and a row make a table of all pairs. "
        "This table is the causal mask of notebook 01.",
        read="NumPy user guide, 'Broadcasting'; PyTorch documentation, 'Broadcasting semantics'.",
    ),
    Question(
        id="0.3",
        topic="softmax",
        text="The softmax of the scores (0, log 3): what is the second weight?",
        options=("0.25", "0.5", "0.75", "3"),
        right="0.75",
        because="exp gives 1 and 3. Divided by their sum, these are 1/4 and 3/4.",
        again="Softmax: take exp of each score, then divide by the sum. So the weights are positive and add up to 1. "
        "Adding one number to all scores changes nothing.",
        read="Dive into Deep Learning, 4.1 Softmax Regression, on the softmax; Wikipedia, 'Softmax function'.",
    ),
    Question(
        id="0.4",
        topic="softmax",
        text="All scores are doubled before the softmax. The weights become ...",
        options=("sharper", "flatter", "twice as large", "no different"),
        right="sharper",
        because="The differences between scores double, so the ratio of two weights is squared.",
        again="Only differences between scores count: the ratio of two weights is exp(difference). Larger "
        "differences bring the softmax nearer to picking the best score, smaller ones nearer to an even mix.",
        read="Dive into Deep Learning, 'Attention Scoring Functions'; Wikipedia, 'Softmax function'.",
    ),
    Question(
        id="0.5",
        topic="autograd",
        text="`w = torch.tensor(3.0, requires_grad=True)`, then `((2 * w - 5) ** 2).backward()`. What is `w.grad`?",
        options=("1", "2", "4", "12"),
        right="4",
        because="By the chain rule the gradient is 2 (2 w - 5) times 2, at w = 3.",
        again="Autograd records each operation of the forward pass. In the backward pass it applies the chain rule and "
        "puts the result into .grad. From notebook 04 on, the course also differentiates through such a step.",
        read="PyTorch tutorials, 'A Gentle Introduction to torch.autograd'; Dive into Deep Learning, 2.5 "
        "Automatic Differentiation.",
    ),
    Question(
        id="0.6",
        topic="a matrix inequality",
        text="The Frobenius norms of A and B are 3 and 4. Which value can the norm of A B *not* have?",
        options=("0", "7", "12", "13"),
        right="13",
        because="The norm of a product is at most the product of the norms, 12. Any value from 0 to 12 can occur.",
        again="Each entry of A B is a row of A times a column of B. It is at most the product of their lengths "
        "(Cauchy and Schwarz). Square and add to get the bound. Such bounds later keep a memory from growing "
        "without limit.",
        read="Mathematics for Machine Learning, chapter 3, norms and inner products; Dive into Deep "
        "Learning, 2.3 Linear Algebra, on norms.",
    ),
)


def _same(given: object, right: str) -> bool:
    """Whether an answer says the same, as "(2,5,3)", (2, 5, 3), torch.Size([2, 5, 3]) do, or 3/4 and 0.75."""
    given, right = (re.sub(r"torch\.size|tensor|[\s()\[\]'\"]", "", str(text).lower()) for text in (given, right))
    try:
        return Fraction(given) == Fraction(right)
    except (ValueError, ZeroDivisionError):
        return given == right


def verdict(id: str, given: object) -> str:
    """What to say about an answer: why it is right, or what to read again."""
    asked = {q.id: q for q in QUESTIONS}
    question = asked[check_choice("question", id, asked)]
    if given is None or given is Ellipsis or not str(given).strip():
        return f"{question.id} not answered yet."
    if _same(given, question.right):
        return f"{question.id} right. {question.because}"
    return f"{question.id} not quite. {question.again}\nMore: {question.read}"


def answer(id: str, given: object) -> None:
    """Prints whether `given` answers the question, and if not, what to read again."""
    say(verdict(id, given))


def questions() -> Page:
    """All questions as text, for where no form shows."""
    lines = [f"**{q.id} {q.topic}.** {q.text}  \nOne of: {' | '.join(q.options)}." for q in QUESTIONS]
    return Page("\n\n".join([*lines, 'Answer with `answer("0.1", "...")`.']))


def entry_check():
    """The questions as a form of radio buttons: an ipywidgets box, each answer judged as it is chosen."""
    from nl_course.exercises.framework.form import EntryCheck

    return EntryCheck(QUESTIONS, verdict)


DISCUSSION = (
    (
        "A window of 256 tokens also stops growing. In what is it different from a memory that rewrites?",
        "The window holds its tokens exactly, one entry per token. A token that falls out is gone: its forgetting "
        "has a sharp edge at 256. A memory that rewrites mixes everything into the same numbers. It keeps traces of "
        "much more, but old and new disturb each other. The window decides by age alone what to keep. A rewriting "
        "memory can decide by the token.",
    ),
    (
        '"The state is constant, so the memory is unlimited." What is wrong with that sentence?',
        "A memory with a constant state can go on reading forever. That does not mean that it holds what it read. A "
        "fixed number of bytes has a fixed number of possible values. Once there are more texts than values, two "
        "texts must share one. The input is unlimited, and the memory is limited by a number known beforehand.",
    ),
    (
        "Where would you put a library card, a notebook and your own brain on the map: what is kept, what "
        "is rewritten, and how often?",
        "A library card keeps almost nothing itself. It points to a store that others keep, so you look things up: it "
        "is the third student. A notebook adds pages and never rewrites them. It grows, and you read only the page "
        "that you open. A brain rewrites at many speeds at once: the last sentence, this day, a language learned "
        "over years. Notebook 06 is about memories with many speeds.",
    ),
)

"""The text on the stage: words of bytes, and the fact that is hidden in it."""

import re
from dataclasses import dataclass

from nl_course.errors import CourseError, check_text

BEFORE = "The ferry leaves the harbor at nine. The wind is cold and the sea is grey."
AFTER = (
    "A woman on the pier counts the gulls and gives up. Her brother sells coffee from a cart until the last boat of "
    "the evening comes in."
)
KEY, ANSWER = "crate", "72148"


@dataclass(frozen=True)
class StageText:
    """A text with one fact: `text`, which bytes (from 0, the end not included) the fact and its answer take, and the
    question that asks for it."""

    text: str
    key: str
    answer: str
    fact: tuple[int, int]
    answer_at: tuple[int, int]

    @property
    def question(self) -> str:
        """The fact up to its answer, on a line of its own, as the models were taught."""
        return f"\n<{self.key}:"

    @property
    def words(self) -> list[tuple[int, int]]:
        """First and last byte of each word, with the white space behind it: every byte is in one."""
        text = self.text.encode()
        return [(found.start(), found.end() - 1) for found in re.finditer(rb"\s*\S+\s*", text)]


def place_fact(before: str = BEFORE, after: str = AFTER, key: str = KEY, answer: str = ANSWER) -> StageText:
    """A fact `<key:answer>` on a line of its own between two stretches of text. Raises CourseError for an empty key or
    answer, and for one that the text holds already."""
    for name, value in (("text", before + after), ("key", key), ("answer", answer)):
        check_text(name, value)
    if not key or not answer or re.search(r"[<>:\s]", key + answer):
        raise CourseError("a fact needs a key and an answer, without spaces, <, > or :.")
    for name, value in (("key", key), ("answer", answer)):
        if value in before + after:
            raise CourseError(f"the {name} {value!r} stands in the text already; choose another.")
    lead = f"{before}\n" if before else ""
    fact = f"<{key}:{answer}>"
    first = len(lead.encode())
    colon = first + len(f"<{key}:".encode())
    text = f"{lead}{fact}\n{after}" if after else f"{lead}{fact}"
    return StageText(text, key, answer, (first, first + len(fact.encode())), (colon, colon + len(answer.encode())))

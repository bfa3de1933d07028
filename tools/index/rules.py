"""The table of rules: one row per memory in one notation, its new term in color; and what each carries.

A text cell marks the place of its table with `<!-- rules NN -->` and `<!-- /rules -->`, NN being the notebook's number.
The table has all rows up to there, so that it grows from notebook to notebook; the glossary has all of them. What
stands in a row is made from `nl_course/family/rules.py`.
"""

from nl_course.family import ROWS, Row
from nl_course.family.rules import rule_of
from nl_course.views.kit.theme import NEW_TERM
from tools.index import marked
from tools.index.evidence import head, row

COLUMNS = ("memory", "rule; its new terms in color, underlined", "what is carried", "numbers carried")


def formula(rule: str) -> str:
    """A rule as TeX between dollars, with its new terms colored and underlined."""
    opened = rf"\textcolor{{{NEW_TERM}}}{{\underline{{"
    parts = rule.split(r"\new{")
    text = parts[0]
    for part in parts[1:]:
        end = closing(part)
        text += opened + part[:end] + "}}" + part[end + 1 :]
    return f"${text}$"


def closing(text: str) -> int:
    """Where the brace closes that was opened before the text."""
    depth = 1
    for index, letter in enumerate(text):
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if depth == 0:
            return index
    raise ValueError(f"a brace is not closed in {text!r}.")


def lines(rows: list[Row]) -> list[str]:
    """The table of these rows."""
    found = [(one, rule_of(one.name)) for one in rows]
    made = [row(one.name, formula(rule.rule), rule.carried, rule.numbers) for one, rule in found if rule is not None]
    return [*head(*COLUMNS), *made]


def table(notebook: str) -> list[str]:
    """The rows of all notebooks up to this one."""
    return lines([one for one in ROWS if one.here and "" < one.notebook <= notebook])


def filled(texts: list[tuple[str, str]]) -> dict[str, str]:
    """name -> text with its tables as they should be, for those of the (name, text) that change."""
    return marked.filled(texts, "rules", table)


def page() -> list[str]:
    """The lines of the whole table in the glossary."""
    return [
        "## The table of rules",
        "",
        "Every memory of the course in one notation. Vectors are rows, and W is the memory. The new terms of each row",
        "are colored and underlined. The last column counts numbers, 4 bytes each in float32, for the options that",
        "`build_memory` gives a layer: d is its width, f a head's width, t the tokens read, w a window.",
        "",
        *lines([one for one in ROWS if one.here]),
        "",
    ]

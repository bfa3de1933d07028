"""The family of memories as tables: a notebook shows the rows that it builds, the glossary shows all of them.

A text cell marks the place of its table with `<!-- family NN -->` and `<!-- /family -->`, NN being the notebook's
number (03 also shows the rows of 01). What stands between the marks is made from `nl_course/family/rows.py`.
"""

from nl_course.family import ROWS, Row, rows_not_here, rows_of
from tools.index import marked
from tools.index.evidence import head, row
from tools.index.places import cell, function

CHOICES = ("writes into", "inner loss", "what is kept", "inner optimizer", "computed at once")
# A notebook's table also has the rows of these.
BEFORE = {"03": ("01",)}


def choices(one: Row) -> tuple[str, ...]:
    return one.memory, one.loss, one.retention, one.optimizer, one.parallel


def name(one: Row) -> str:
    """A row's name, and its definition in the package where there is one."""
    return f"{one.name}, {function(one.function)}" if one.function else one.name


def place(one: Row) -> str:
    """A link to the cell that builds it."""
    return cell(one.cell).link if one.cell else ""


def table(notebook: str) -> list[str]:
    """The rows that a notebook shows."""
    rows = [one for number in (*BEFORE.get(notebook, ()), notebook) for one in rows_of(number)]
    return [*head("memory", *CHOICES), *(row(name(one), *choices(one)) for one in rows)]


def filled(texts: list[tuple[str, str]]) -> dict[str, str]:
    """name -> text with its tables as they should be, for those of the (name, text) that change."""
    return marked.filled(texts, "family", table)


def page() -> list[str]:
    """The lines of the whole family in the glossary."""
    here = [one for one in ROWS if one.here]
    return [
        "## The family on one page",
        "",
        "Every memory of the course makes four choices; a fifth column says what can be computed at once. The rows are",
        "`nl_course/family/rows.py`. [06b](06b_optimizers_as_memories.ipynb#Four-choices-make-a-memory) has a picker",
        "that composes them. One choice has no column: whether the gradient is taken before or after forgetting.",
        "",
        *head("memory", *CHOICES, "built in", "source"),
        *(row(name(one), *choices(one), place(one), one.source) for one in here),
        "",
        "### Not here, but this cell would change",
        "",
        "The course does not build these. The last column names the nearest row above and the cells that differ. What",
        "their authors report was not repeated here.",
        "",
        *head("memory", *CHOICES, "source", "how it was read", "what would change"),
        *(row(one.name, *choices(one), one.source, one.grade, one.change) for one in rows_not_here()),
        "",
    ]  # fmt: skip

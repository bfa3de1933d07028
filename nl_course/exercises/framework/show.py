"""How verdicts and texts appear, in a notebook and in a plain Python session."""

import re
import textwrap
from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """The result of a check. `status` is "passed", "failed" or "empty" (not attempted yet).

    `check` has printed `text`, so a verdict that ends its own cell shows nothing more; in a later cell it
    shows its text again.
    """

    exercise: str
    status: str
    text: str
    fails: str = ""
    cell: int | None = None

    @property
    def passed(self) -> bool:
        """Whether every property held."""
        return self.status == "passed"

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"<{self.exercise} {'not attempted yet' if self.status == 'empty' else self.status}>"

    def shown(self) -> "Verdict":
        """The same verdict, marked as printed in the cell that is running."""
        return Verdict(self.exercise, self.status, self.text, self.fails, _running_cell())

    def _ipython_display_(self) -> None:
        if self.cell is None or self.cell != _running_cell():
            say(self.text)


class Page:
    """A text that a notebook renders as Markdown and a terminal shows plainly."""

    def __init__(self, markdown: str, plain: str | None = None):
        self.markdown = markdown
        bare = re.sub(r"\*\*(\S[^*\n]*)\*\*", r"\1", markdown)
        self.plain = re.sub(r"  $", "", bare, flags=re.MULTILINE) if plain is None else plain

    def _repr_markdown_(self) -> str:
        return self.markdown

    def __repr__(self) -> str:
        return self.plain


def say(text: str) -> None:
    """Prints a text, broken between words: a notebook would break its long lines anywhere."""
    for line in text.splitlines():
        indent = " " * (len(line) - len(line.lstrip()) + 4)
        print(textwrap.fill(line, 95, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False))


def _running_cell() -> int | None:
    """The number of the notebook cell that is running, None outside of one."""
    try:
        from IPython import get_ipython
    except ImportError:
        return None
    shell = get_ipython()
    return None if shell is None else shell.execution_count

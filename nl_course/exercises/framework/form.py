"""The entry check as a form: radio buttons, a verdict under each question, one line that sums up.

Loaded only when a form is asked for, since ipywidgets takes a while to import.
"""

import html
import re
from collections.abc import Callable, Sequence

import ipywidgets as widgets

TIGHT = 'style="line-height: 1.4; padding-bottom: 0.8em"'


class EntryCheck(widgets.VBox):
    """Keyboard: Tab goes from question to question, the arrow keys choose. `.choices[id].value` sets an answer."""

    def __init__(self, questions: Sequence, verdict: Callable[[str, object], str]):
        self.questions, self.verdict = questions, verdict
        self.choices: dict[str, widgets.RadioButtons] = {}
        self.verdicts: dict[str, widgets.HTML] = {}
        self.read_out = widgets.HTML()
        rows = []
        for question in questions:
            choice = widgets.RadioButtons(
                options=question.options,
                value=None,
                description=f"Answer {question.id}",
                orientation="horizontal",
                style={"description_width": "initial"},
                layout={"width": "auto"},
            )
            choice.observe(self._answered, names="value")
            self.choices[question.id], self.verdicts[question.id] = choice, widgets.HTML()
            title = widgets.HTML(f"<b>{question.id} {question.topic}.</b> {as_html(question.text)}")
            rows += [title, choice, self.verdicts[question.id]]
        super().__init__([*rows, self.read_out])
        self._answered()

    def _answered(self, _change: dict | None = None) -> None:
        right, missed, open_ = 0, [], []
        for question in self.questions:
            given = self.choices[question.id].value
            text = self.verdict(question.id, given)
            self.verdicts[question.id].value = "" if given is None else f"<div {TIGHT}>{as_html(text)}</div>"
            if given is None:
                open_.append(question.id)
            elif text.startswith(f"{question.id} right"):
                right += 1
            elif question.topic not in missed:
                missed.append(question.topic)
        said = [f"{right} of {len(self.questions)} right"]
        said += [f"read again: {', '.join(missed)}"] if missed else []
        said += [f"still open: {', '.join(open_)}"] if open_ else []
        self.read_out.value = f"<b>{'; '.join(said)}.</b>"

    def __repr__(self) -> str:
        return f'Entry check, {len(self.questions)} questions; as text: questions() and answer("0.1", "...").'


def as_html(text: str) -> str:
    """Plain text with `code` and *stress* as HTML, line by line."""
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text, quote=False))
    return re.sub(r"(?<!\w)\*(\w[^*`<]*)\*(?!\w)", r"<i>\1</i>", text).replace("\n", "<br>")

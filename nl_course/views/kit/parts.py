"""The parts of every view: a prediction, a line of text that is read aloud, a fold, Back / Step / Play."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import ipywidgets as W
import traitlets

from nl_course.views.kit.lasting import Lasting, script


@dataclass(frozen=True)
class Prediction:
    """A question asked before the answer shows: two to four `options`, or a number where there are none.

    `outcome(arrays)` is what came out (an option or a number), or None while the settings do not answer it
    yet; `until` says what to do then. A number that differs by at most the share `near` counts as close. `why` is
    the sentence that a wrong prediction gets: why it comes out as it does.
    """

    question: str
    outcome: Callable
    options: tuple[str, ...] = ()
    until: str = "Move the controls to find out."
    near: float = 0.1
    why: str = ""

    def verdict(self, predicted: str | float, came: str | float | None) -> str:
        """The prediction beside what came out, in words."""
        said = f"You predicted {predicted:g}" if not self.options else f'You predicted "{predicted}"'
        if came is None:
            return f"{said}. {self.until}"
        right = came == predicted if self.options else abs(came - predicted) <= self.near * abs(came)
        out = f'"{came}"' if self.options else f"{came:.3g}"
        if right:
            return f"{said}; it came out {out}, {'as you said' if self.options else 'close to it'}."
        return f"{said}; it came out {out}. {self.why}".strip()


class Line(Lasting):
    """A line of text that screen readers announce when it changes (`role` status, or alert for errors)."""

    _esm = script("alive", "line")
    text = traitlets.Unicode("").tag(sync=True)
    role = traitlets.Unicode("status").tag(sync=True)

    def knows(self, browser: dict) -> bool:
        """Whether the browser shows the latest text."""
        return browser.get("text") == self.text

    def __repr__(self) -> str:
        return f"Line({self.text!r})"


def veil(lift: Callable[[], None]) -> W.HBox:
    """What stands above a covered picture: why it is covered, and a button that shows it all the same."""
    button = W.Button(description="Show me")
    button.on_click(lambda _: lift())
    box = W.HBox([W.HTML("The picture is covered until you answer."), button], layout=W.Layout(flex_flow="row wrap"))
    box.add_class("nl-veil")
    return box


def fold(controls: Iterable[W.Widget]) -> list[W.Widget]:
    """A button "More controls" and the box that it unfolds; nothing where there are no controls."""
    box = W.HBox([*controls], layout=W.Layout(flex_flow="row wrap", display="none"))
    button = W.ToggleButton(value=False, description="More controls", icon="chevron-down")

    def unfold(change):
        """Shows or hides the box, and names the button for what it does next."""
        box.layout.display = "flex" if change.new else "none"
        button.description = "Fewer controls" if change.new else "More controls"

    button.observe(unfold, "value")
    return [button, box] if box.children else []


def stepper(slider: W.IntSlider) -> list[W.Widget]:
    """A row of Back, Step and Play that move a whole-number slider and stay within its range."""

    def by(amount):
        """Moves the slider by `amount`, to its ends at most."""
        slider.value = min(slider.max, max(slider.min, slider.value + amount))

    back, step = W.Button(description="Back"), W.Button(description="Step")
    back.layout.width = step.layout.width = "72px"
    back.add_class("nl-back")  # the arrow keys press them: files/keys.js
    step.add_class("nl-step")
    back.on_click(lambda _: by(-slider.step))
    step.on_click(lambda _: by(slider.step))
    play = W.Play(max=slider.max, value=slider.value, interval=600, description="Play")
    for trait in ("min", "max", "step", "value"):
        traitlets.link((slider, trait), (play, trait))
    return [W.HBox([back, step, play])]

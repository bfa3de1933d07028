"""The shell of every view: controls -> `compute(settings)` -> `draw(arrays, figure)` and a sentence.

How to make a view, in a file of its own:

    class Wave(View):
        name = "wave"                 # names assets/previews/wave.png and the CSS class nl-wave
        title = "How often does a wave repeat?"
        prediction = Prediction("How many crests at 4?", lambda a: a["crests"] if a["crests"] == 4 else None)
        def controls(self):           # what the learner sees first; every control needs a description
            return {"frequency": W.IntSlider(value=2, min=1, max=9, description="Crests per second")}
        def more_controls(self): ...  # the same, folded away behind "More controls"
        def compute(self, settings):  # pure: dict of the controls' values -> anything; remembered by settings
            ...
        def draw(self, arrays, figure):   # pure: always starts from an EMPTY figure
            figure.add_scatter(x=arrays["t"], y=arrays["y"])
        def read_out(self, arrays): return f"The wave has {arrays['crests']} crests."

Only what differs from the last picture is sent to the browser. `Wave()` as a cell's last line shows it. In
tests: `view = Wave(); view.controls_by_name["frequency"].value = 4` (or `view.set(frequency=4)`), then look
at `view.figure.data[0].y`, `view.readout`, `view.error`, `view.verdict`. Bad input: raise CourseError in
`compute`. Where the three are functions of the module: `compute, draw, read_out = pure(compute, draw, read_out)`,
with `by_name(compute)` if it takes the settings as keywords. Also: `step_by = "frequency"` adds Back, Step and
Play; `continuous = False` waits until a slider is let go; `moves` and `stays` say what moves on exported pages
(`kit/grid.py`); `adjust(name)` may change other controls (ranges, options) before the recompute. A view that opens on
the answer of its prediction covers its picture and its sentence until the learner answers, or asks to be shown;
`covers = True` does so where the picture shows the answer though the settings do not ask for it. Where
NL_COURSE_STRICT=1 is set, as in the tests, a bug inside a view is raised again after it was shown.
"""

import math
import os
import traceback
from collections import OrderedDict
from collections.abc import Callable
from contextlib import contextmanager
from html import escape

import ipywidgets as W
import plotly.graph_objects as go
import traitlets

from nl_course import progress
from nl_course.errors import CourseError, check_text
from nl_course.views.kit.grid import grid
from nl_course.views.kit.parts import Line, Prediction, fold, stepper, veil
from nl_course.views.kit.plot import GRIDS, LEAST_WIDTH_OF_A_VIEW, STILLS, Plot, still, wanted


def pure(*functions: Callable) -> list[staticmethod]:
    """Functions of a module as methods of its view: they need nothing of the view itself."""
    return [staticmethod(function) for function in functions]


def by_name(compute: Callable) -> Callable:
    """`compute` for a dict of settings, from one that takes them as keywords."""
    return lambda settings: compute(**settings)


def check_setting(control: W.Widget, value: object) -> None:
    """Raises CourseError, naming the control, for a value that the widget would take and that no view can draw.

    A browser sends none of them. Code can: `control.value = None` empties a list, nan is a float, and half of a
    surrogate pair is a str that no file and no browser can hold.
    """
    label = control.description or "this control"
    if value is None and hasattr(control, "options"):
        raise CourseError(f"choose one of the answers of {label!r}; it has none now.")
    numbers = value if isinstance(value, tuple) else (value,)
    if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
        raise CourseError(f"{label!r} takes a finite number, not {value}.")
    if isinstance(value, str):
        check_text(label, value)


class View:
    """Base of all views; see the module's docstring for how to make one."""

    name = "view"
    title = ""
    prediction: Prediction | None = None
    covers = False  # True where the picture answers the prediction though the settings that it asks for are not set
    step_by: str | None = None  # name of a whole-number slider that Back, Step and Play move
    continuous = True  # False: recompute when a slider is let go
    width, height = 820, 380  # of the figure, in pixels
    remembered = 32  # results kept, by settings
    moves: tuple[str, ...] | None = None  # controls that also move on a page without a kernel; None: the first shown
    stays = ""  # why nothing moves there, in half a sentence

    def controls(self) -> dict[str, W.Widget]:
        """The controls that stand above the picture, by name. Every view has its own."""
        raise NotImplementedError

    def more_controls(self) -> dict[str, W.Widget]:
        """The controls folded away behind "More controls", by name; none unless a view has some."""
        return {}

    def compute(self, settings: dict):
        """What the picture and the sentence need, from the controls' values. Results are remembered by settings."""
        raise NotImplementedError

    def draw(self, arrays, figure: go.Figure) -> None:
        """Draws what `compute` gave into an empty figure."""
        raise NotImplementedError

    def read_out(self, arrays) -> str:
        """The sentence under the picture, about what `compute` gave."""
        raise NotImplementedError

    def adjust(self, name: str) -> None:
        """Called with the name of the control that changed, before the recompute."""

    def point_clicked(self, trace: int, point: int) -> None:
        """Called with the places of a trace in the figure and of the point in it that was clicked."""

    def __init__(self, strict: bool | None = None, **settings):
        self.strict = os.environ.get("NL_COURSE_STRICT") == "1" if strict is None else strict
        self._cache, self._held, self.predicted, self._arrays = OrderedDict(), False, None, None
        shown, folded = self.controls(), self.more_controls()
        self.controls_by_name = {**shown, **folded}
        self._shown = tuple(shown)
        for name, control in self.controls_by_name.items():
            self._prepare(name, control)
        self.figure = self._empty()
        self._plot = Plot(self.figure, self.title or self.name, self.point_clicked, LEAST_WIDTH_OF_A_VIEW)
        self._readout, self._error, self._verdict = Line(), Line(role="alert"), Line()
        self._readout.add_class("nl-readout")
        self.stepper = stepper(self.controls_by_name[self.step_by]) if self.step_by else []
        self.fold = fold(folded.values())
        self.widget = W.VBox(
            [
                *([W.HTML(f"<div class='nl-title'>{escape(self.title)}</div>")] if self.title else []),
                *self._ask(),
                W.HBox([*shown.values(), *self.stepper], layout=W.Layout(flex_flow="row wrap")),
                *self.fold,
                self._error,
                self._plot,
                self._readout,
            ],
            layout=W.Layout(overflow="visible"),
        )
        self.widget.add_class("nl-view")
        self.widget.add_class(f"nl-{self.name}")
        self.set(**settings)
        if self.strict and self.error:  # default settings must work
            raise CourseError(self.error)
        self._cover()

    # what the learner and the tests read

    @property
    def settings(self) -> dict:
        """The controls' present values by name; `set(**settings)` brings them back."""
        return {name: c.value for name, c in self.controls_by_name.items() if c.has_trait("value")}

    readout = property(lambda self: self._readout.text, doc="The sentence under the picture.")
    error = property(lambda self: self._error.text, doc="What went wrong, in words; empty when all is well.")
    covered = property(
        lambda self: "nl-covered" in self.widget._dom_classes, doc="Whether picture and sentence wait for a prediction."
    )
    verdict = property(lambda self: self._verdict.text, doc="The prediction compared with what came out.")
    arrays = property(lambda self: self._arrays, doc="What `compute` returned for the picture in view.")

    def set(self, **settings) -> "View":
        """Sets several controls and recomputes once."""
        with self._hold():
            for name, value in settings.items():
                if name not in self.controls_by_name:
                    known = ", ".join(self.controls_by_name)
                    raise CourseError(f"the view {self.name!r} has no control {name!r}; it has: {known}.")
                check_setting(self.controls_by_name[name], value)
                try:
                    self.controls_by_name[name].value = value
                except traitlets.TraitError as wrong:
                    raise CourseError(f"{name} cannot be {value!r}: {wrong}") from wrong
                self.adjust(name)
        self.refresh()
        return self

    def predict(self, answer: str | float) -> str:
        """Remembers a prediction and returns it beside what came out; same as answering in the view."""
        if self.prediction.options and answer not in self.prediction.options:
            options = ", ".join(self.prediction.options)
            raise CourseError(f"the prediction {answer!r} is not among the answers: {options}.")
        try:
            predicted = answer if self.prediction.options else float(str(answer).replace(",", "."))
        except ValueError:
            raise CourseError(f"the prediction {answer!r} is not a number like 12 or 0.5.") from None
        if isinstance(predicted, float) and not math.isfinite(predicted):
            raise CourseError(f"the prediction {answer!r} is not a finite number.")
        self.predicted = predicted
        progress.note(progress.PREDICTED, self.name)
        self.uncover()
        self._asking.add_class("nl-answered")
        self._compare()
        return self.verdict

    def uncover(self) -> None:
        """Shows the picture and its sentence, as a prediction or the button "Show me" does."""
        self.widget.remove_class("nl-covered")

    def refresh(self, *_) -> None:
        """Computes (or remembers) and draws the present settings; says in the view what goes wrong."""
        with self._words():
            self._redraw()

    def __repr__(self) -> str:
        said = f"Predict first. {self.prediction.question}" if self.covered else self.error or self.readout
        return f"{self.title or self.name}: {said}"

    def _repr_mimebundle_(self, **kwargs) -> dict:
        return {**self.widget._repr_mimebundle_(**kwargs), **self.still(), "text/plain": repr(self)}

    def still(self) -> dict:
        """What the view shows now, and how it moves, for a page without a kernel; see `plot.still`."""
        if not wanted(STILLS):
            return {}
        return still(
            self.name,
            self.error or self.readout,
            self.figure,
            title=self.title,
            question=self.prediction.question if self.prediction else "",
            controls={name: self.controls_by_name[name].description for name in self.settings},
            least_width=LEAST_WIDTH_OF_A_VIEW,
            grid=self.grid() if wanted(GRIDS) else None,
            stays=self.stays,
            covered=self.covered,
        )

    def grid(self) -> dict | None:
        """The view's pictures over a grid around its present settings; None where it has none."""
        return None if self.stays or self.error else grid(self, self.moves or self._shown)

    # how it works

    def _prepare(self, name: str, control: W.Widget) -> None:
        if not control.description:
            raise CourseError(f"the control {name!r} of the view {self.name!r} needs a description.")
        if control.style.has_trait("description_width"):
            control.style.description_width = "initial"
        if control.layout.width is None and not isinstance(control, W.Button):
            control.add_class("nl-list" if isinstance(control, W.Dropdown | W.Checkbox) else "nl-control")
        if control.has_trait("continuous_update"):
            control.continuous_update = self.continuous and not isinstance(control, (W.Text, W.Textarea))
        if control.has_trait("value"):
            control.observe(lambda change, name=name: self._changed(name), "value")

    def _changed(self, name: str) -> None:
        if not self._held:
            with self._words(self.controls_by_name[name]):
                # Before `adjust`, which may already use the value.
                check_setting(self.controls_by_name[name], self.controls_by_name[name].value)
                with self._hold():
                    self.adjust(name)
                self._redraw()

    def pictured(self, arrays) -> tuple[go.Figure, str]:
        """The figure and the sentence of what `compute` returned; nothing is shown."""
        figure = self._empty()
        self.draw(arrays, figure)
        return figure, self.read_out(arrays)

    def _redraw(self) -> None:
        self._arrays = self._computed(self.settings)
        self.figure, said = self.pictured(self._arrays)
        self._plot.show(self.figure)
        self._readout.text = said
        self._compare()

    def _empty(self) -> go.Figure:
        return go.Figure(layout=dict(width=self.width, height=self.height))

    def _computed(self, settings: dict):
        key = tuple((name, repr(value)) for name, value in settings.items())
        if key not in self._cache:
            self._cache[key] = self.compute(settings)
            while len(self._cache) > self.remembered:
                self._cache.popitem(last=False)
        self._cache.move_to_end(key)
        return self._cache[key]

    def _compare(self) -> None:
        if self.predicted is not None and self._arrays is not None:
            came = self.prediction.outcome(self._arrays)
            self._verdict.text = self.prediction.verdict(self.predicted, came)

    @contextmanager
    def _hold(self):
        before, self._held = self._held, True
        try:
            yield
        finally:
            self._held = before

    @contextmanager
    def _words(self, field: W.Widget | None = None):
        """Says what goes wrong and marks the `field` that brought it; the picture, now of other settings, is dimmed."""
        try:
            yield
            self._error.text = ""
        except CourseError as wrong:
            self._error.text = str(wrong)
        except Exception as wrong:
            where = traceback.extract_tb(wrong.__traceback__)[-1]
            at = f"{os.path.basename(where.filename)}, line {where.lineno}"
            self._error.text = f"This view failed with {type(wrong).__name__}: {wrong} ({at})"
            if self.strict:
                raise
        finally:
            self._mark(field if self._error.text else None)

    def _cover(self) -> None:
        """Covers the picture if it, or the settings of the moment, answer the prediction."""
        if self.prediction is None or self._arrays is None:
            return
        if self.covers or self.prediction.outcome(self._arrays) is not None:
            self.widget.add_class("nl-covered")

    def _mark(self, field: W.Widget | None) -> None:
        """Marks the field that is wrong, and no other; dims the picture while it is not of the present settings."""
        for control in self.controls_by_name.values():
            if control is not field:
                control.remove_class("nl-wrong-field")
        if field is not None:
            field.add_class("nl-wrong-field")
        if self._error.text and field is not getattr(self, "answer", None):
            self.widget.add_class("nl-wrong")
        else:
            self.widget.remove_class("nl-wrong")

    def _ask(self) -> list[W.Widget]:
        if self.prediction is None:
            return []
        if options := self.prediction.options:
            answer = W.RadioButtons(options=options, value=None, description="Your prediction")
        else:
            answer = W.Text(placeholder="a number", description="Your prediction", continuous_update=False)
        answer.style.description_width = "initial"
        answer.layout.width, answer.layout.max_width = "auto", "100%" if self.prediction.options else "440px"
        answer.add_class("nl-answer")
        self.answer = answer

        def answered(change):
            """Takes the learner's answer, once there is one."""
            if change.new not in (None, ""):
                answer.remove_class("nl-wrong-field")
                with self._words(answer):
                    self.predict(change.new)

        answer.observe(answered, "value")
        question = W.HTML(f"<em>Predict first.</em> {escape(self.prediction.question)}")
        question.add_class("nl-question")
        self._asking = W.VBox([question, answer, veil(self.uncover)], layout=W.Layout(overflow="visible"))
        return [self._asking, self._verdict]

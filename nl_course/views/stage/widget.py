"""The stage as a view: a real model reads the learner's own text in the kernel, and the take is drawn in the browser.

    Stage()                     a live model of Titans; your own text, your own fact, the gates in your hand
    Stage("gated-delta")        the same with Gated DeltaNet, Stage("self-modifying") with the memory of HOPE
    Stage.recorded()            the recorded take: no model is loaded, and nothing is computed

A take is JSON (record/stage/take.py), and the drawing code (js/) is one program for both. What the learner asks for
arrives as a wish, {"kind": "text", "data": {text, key, answer, place}} or {"kind": "gains", "data": {step, momentum,
keep}}; the answer is a new take. Bad input leaves the picture as it was and says why under it.
"""

import json
import os
from functools import lru_cache
from typing import Any

import anywidget
import ipywidgets as W
import traitlets

from nl_course.errors import CourseError, check_choice, check_int
from nl_course.files import asset
from nl_course.model import LanguageModel
from nl_course.record.stage.reading import Gains, can_draw
from nl_course.record.stage.recipe import load_stage_model
from nl_course.record.stage.take import take
from nl_course.record.stage.text import AFTER, ANSWER, BEFORE, KEY, StageText, place_fact
from nl_course.views.kit.parts import Line
from nl_course.views.kit.plot import STILLS, wanted
from nl_course.views.stage.bundle import bundle, styles

RECORDING = "stage.json"
STAGE = "application/vnd.nl-course.stage+json"  # what a page without a kernel shows: {"take", "unfolded"}
STEPS = (0, 10, 50, 200, 1000)  # of the shipped checkpoints
DRAWN = ("titans", "gated-delta", "self-modifying")  # memories of which all of them are shipped
ANSWERING = ("attention", "titans", "gated-delta", "ttt-linear", "self-modifying")  # memories of which the last is
TEXT = f"{BEFORE} {AFTER}"
PLACE = len(BEFORE)


class StageWidget(anywidget.AnyWidget):
    """What the browser sees: the take, whether a kernel listens, and the learner's last wish."""

    _esm = bundle("widget")
    _css = styles()
    take = traitlets.Dict().tag(sync=True)
    live = traitlets.Bool(False).tag(sync=True)
    wish = traitlets.Dict().tag(sync=True)

    def __repr__(self) -> str:
        return "StageWidget()"


class Stage:
    """The stage with one of the course's own memories, "titans", "gated-delta" or "self-modifying", and those `beside`
    it that only answer (also "ttt-linear"); or with `models`: each memory's models by outer step, the one to draw
    first."""

    name = "stage"
    title = "A machine that reads, and learns while it reads"

    def __init__(
        self,
        memory: str = "titans",
        beside: tuple[str, ...] = ("attention",),
        models: dict[str, dict[int, LanguageModel]] | None = None,
        strict: bool | None = None,
        recording: dict[str, Any] | None = None,
    ):
        self.strict = os.environ.get("NL_COURSE_STRICT") == "1" if strict is None else strict
        self.settings = {"text": TEXT, "key": KEY, "answer": ANSWER, "place": PLACE}
        self.gains = Gains()
        self._error = Line(role="alert")
        self.models = None
        self.unfolded = False
        if recording is None:
            self.models = shipped(memory, beside) if models is None else models
            self._check_models()
            recording = self._taken()
        self.screen = StageWidget(take=recording, live=self.models is not None)
        self.screen.observe(self._wished, "wish")
        self.widget = W.VBox([self.screen, self._error], layout=W.Layout(overflow="visible"))
        self.widget.add_class(f"nl-{self.name}")

    @classmethod
    def recorded(cls, unfolded: bool = False) -> "Stage":
        """The recorded take of the default text; `unfolded` opens it with the last outer step unfolded."""
        stage = cls(recording={**recorded_take(), "unfolded": unfolded})
        stage.unfolded = unfolded
        return stage

    def _check_models(self) -> None:
        first = next(iter(self.models.values()))
        model = first[max(first)]
        if not any(can_draw(layer.memory) for layer in model.layers):
            raise CourseError(
                "the stage opens with a memory whose heads are one matrix each: put a model of Titans, of a delta "
                "rule or of self-modifying Titans first."
            )

    def set(self, **settings: Any) -> "Stage":
        """Another text, key or answer, or another `place` for the fact: the number of characters before it."""
        for name in settings:
            if name not in self.settings:
                raise CourseError(f"the stage has no setting {name!r}; it has: {', '.join(self.settings)}.")
        self._grant({"kind": "text", "data": {**self.settings, **settings}})
        return self

    def turn(self, step: float = 1.0, momentum: float = 1.0, keep: float = 1.0) -> "Stage":
        """Reads the text again with all gates of Titans turned by these factors."""
        self._grant({"kind": "gains", "data": {"step": step, "momentum": momentum, "keep": keep}})
        return self

    @property
    def error(self) -> str:
        """What is wrong with the last wish, or nothing."""
        return self._error.text

    @property
    def readout(self) -> str:
        """The take in a sentence, for pages without a browser."""
        form = self.screen.take
        said = []
        for memory in form["memories"]:
            answers = memory["checkpoints"][-1]["answers"]
            said.append(f"{memory['label']} {answers['probability'][-1]:.0%}")
        fact = form["fact"]
        return (
            f"{len(form['text'].encode())} bytes, one write each. Asked at the end for {fact['answer']}, the memories "
            f"give it a probability of: {', '.join(said)}."
        )

    def __repr__(self) -> str:
        return f"{self.title}: {self.readout}"

    def _repr_mimebundle_(self, **kwargs: Any) -> dict:
        shown = {**self.widget._repr_mimebundle_(**kwargs), "text/plain": repr(self)}
        if wanted(STILLS):
            # A page has the recorded take once, in its script; a live one travels with the page.
            shown[STAGE] = {"take": None if self.models is None else self.screen.take, "unfolded": self.unfolded}
        return shown

    # -- wishes --------------------------------------------------------------------------------------------------------
    def _wished(self, change: Any) -> None:
        if change.new:
            self._grant(change.new)

    def _grant(self, wish: dict[str, Any]) -> None:
        """Reads again as the learner asks; an error is shown, and raised again where the tests run."""
        try:
            if self.models is None:
                raise CourseError("this is a recording: run Stage() for a model that reads your own text.")
            before = self.settings, self.gains
            if wish["kind"] == "text":
                self.settings = {name: wish["data"][name] for name in self.settings}
            else:
                self.gains = Gains(**wish["data"])
            try:
                self.screen.take = self._taken()
            except CourseError:
                self.settings, self.gains = before
                raise
            self._error.text = ""
        except CourseError as wrong:
            self._error.text = str(wrong)
        except Exception as wrong:
            self._error.text = f"The stage failed with {type(wrong).__name__}: {wrong}"
            if self.strict:
                raise

    def _taken(self) -> dict[str, Any]:
        form = take(stage_text(**self.settings), self.models, self.gains, outer=False)
        return {**form, "plain": self.settings["text"], "gains": vars(self.gains)}


def stage_text(text: str, key: str, answer: str, place: int) -> StageText:
    """The learner's text with the fact after `place` characters, at the nearest end of a word. Raises CourseError."""
    place = check_int("place", place, 0)
    place = min(place, len(text))
    while 0 < place < len(text) and not text[place].isspace():
        place += 1
    return place_fact(text[:place].strip(), text[place:].strip(), key, answer)


@lru_cache
def recorded_take() -> dict[str, Any]:
    """The recording, without what it says of how it was made."""
    form = json.loads(asset(RECORDING).read_text("utf-8"))
    return {name: value for name, value in form.items() if name not in ("about", "models")}


def shipped(memory: str, beside: tuple[str, ...]) -> dict[str, dict[int, LanguageModel]]:
    """The course's own models of a memory, at every recorded step of their training, and the last one of the others."""
    steps_of = {check_choice("memory", memory, DRAWN): STEPS}
    for name in beside:
        steps_of.setdefault(check_choice("memory", name, ANSWERING), STEPS[-1:])
    models = {}
    for name, steps in steps_of.items():
        models[name] = {}
        for step in steps:
            models[name][step] = load_stage_model(asset(f"checkpoints/stage-{name}-{step}.safetensors"))
    return models

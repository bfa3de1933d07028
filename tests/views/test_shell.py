"""The shell that every view stands on, driven as a learner would through a toy view."""

import json

import ipywidgets as W
import numpy as np
import pytest

from nl_course.errors import CourseError
from nl_course.views.kit.lasting import Lasting
from nl_course.views.kit.plot import plain
from nl_course.views.kit.shell import Prediction, View


class Wave(View):
    name = "wave"
    title = "How often does a wave repeat?"
    prediction = Prediction(
        "How many crests has the wave at frequency 4?",
        lambda arrays: arrays["crests"] if arrays["crests"] == 4 else None,
        until="Set the frequency to 4.",
        why="A crest is a cycle.",
    )
    step_by = "frequency"

    def __init__(self, **kwargs):
        self.computed = 0
        super().__init__(**kwargs)

    def controls(self):
        return {"frequency": W.IntSlider(value=2, min=0, max=9, description="Frequency (crests per second)")}

    def more_controls(self):
        kinds = ["line", "bars", "broken"]
        return {
            "label": W.Text(value="wave", description="Name of the wave"),
            "kind": W.Dropdown(options=kinds, value="line", description="Drawn as"),
        }

    def compute(self, settings):
        self.computed += 1
        if not settings["label"]:
            raise CourseError("the wave needs a name.")
        t = np.linspace(0, 1, 50)
        y = np.sin(2 * np.pi * settings["frequency"] * t)
        return {"t": t, "y": y, "crests": settings["frequency"], **settings}

    def draw(self, arrays, figure):
        if arrays["kind"] == "broken":
            raise ZeroDivisionError("no picture")
        add = figure.add_bar if arrays["kind"] == "bars" else figure.add_scatter
        add(x=arrays["t"], y=arrays["y"], name=arrays["label"], marker=dict(color=np.abs(arrays["y"])))
        figure.update_layout(xaxis_title="time (s)", title=arrays["label"])
        if arrays["crests"] > 5:
            figure.add_annotation(text="fast", x=0.5, y=1, showarrow=False)

    def read_out(self, arrays):
        return f"The wave has {arrays['crests']} crests."


@pytest.fixture
def view():
    return Wave(strict=True)


def test_a_control_drives_the_picture_and_the_sentence(view):
    assert np.allclose(view.figure.data[0].y, np.sin(4 * np.pi * view.figure.data[0].x))
    view.controls_by_name["frequency"].value = 7
    assert np.allclose(view.figure.data[0].y, np.sin(14 * np.pi * view.figure.data[0].x))
    assert np.allclose(view.figure.data[0].marker.color, np.abs(view.figure.data[0].y))
    assert view.readout == "The wave has 7 crests."
    assert view.figure.layout.annotations[0].text == "fast"
    view.set(frequency=1, label="slow")
    assert (view.figure.layout.title.text, view.figure.data[0].name) == ("slow", "slow")
    assert view.figure.layout.annotations == ()


def test_a_new_kind_of_trace_replaces_the_old_one(view):
    view.set(kind="bars")
    assert [trace.type for trace in view.figure.data] == ["bar"]
    view.set(kind="line", frequency=3)
    assert [trace.type for trace in view.figure.data] == ["scatter"]
    assert np.allclose(view.figure.data[0].y, np.sin(6 * np.pi * view.figure.data[0].x))


def test_settings_are_remembered_and_can_be_brought_back(view):
    first = view.settings
    view.set(frequency=5)
    assert view.computed == 2
    view.set(**first)
    assert view.computed == 2 and view.settings == first
    for frequency in range(10):
        view.set(frequency=frequency)
    assert view.computed == 10


def test_cache_is_bounded():
    view = Wave(strict=True)
    view.remembered = 2
    for frequency in (3, 4, 5, 3):
        view.set(frequency=frequency)
    assert view.computed == 5


def test_every_control_has_a_whole_label(view):
    for control in view.controls_by_name.values():
        assert control.description and control.style.description_width == "initial"

    class Unlabelled(Wave):
        def controls(self):
            return {"frequency": W.IntSlider(value=2)}

    with pytest.raises(CourseError, match=r"'frequency' of .* needs a description"):
        Unlabelled()


def test_text_is_read_when_entered_not_at_each_key(view):
    assert view.controls_by_name["label"].continuous_update is False
    assert view.controls_by_name["frequency"].continuous_update is True

    class Patient(Wave):
        continuous = False

    assert Patient().controls_by_name["frequency"].continuous_update is False


def test_a_prediction_is_remembered_and_compared(view):
    view.answer.value = "4"
    assert view.predicted == 4 and view.verdict == "You predicted 4. Set the frequency to 4."
    view.set(frequency=4)
    assert view.verdict == "You predicted 4; it came out 4, close to it."
    assert view.predict(9) == "You predicted 9; it came out 4. A crest is a cycle."
    view.answer.value = "many"
    assert "'many' is not a number" in view.error and view.predicted == 9
    assert "nl-wrong-field" in view.answer._dom_classes and "nl-wrong" not in view.widget._dom_classes
    view.answer.value = "inf"
    assert "'inf' is not a finite number" in view.error and view.predicted == 9
    view.answer.value = "3"
    assert view.error == "" and "nl-wrong-field" not in view.answer._dom_classes


def test_a_prediction_among_options():
    class Choice(Wave):
        prediction = Prediction("More?", lambda a: "yes" if a["crests"] > 3 else "no", options=("yes", "no"))

    view = Choice(strict=True)
    view.answer.value = "yes"
    assert view.verdict == 'You predicted "yes"; it came out "no".'
    view.set(frequency=8)
    assert view.verdict == 'You predicted "yes"; it came out "yes", as you said.'
    with pytest.raises(CourseError, match="'perhaps' is not among the answers: yes, no"):
        view.predict("perhaps")


def test_a_picture_that_answers_is_covered_until_a_prediction_or_a_button():
    assert not Wave(strict=True).covered  # it opens on 2, and the question is about 4
    for lift in (lambda view: view.predict(9), lambda view: view.uncover()):
        view = Wave(strict=True, frequency=4)
        assert view.covered and "Predict first." in repr(view) and view.readout not in repr(view)
        lift(view)
        assert not view.covered and view.readout in repr(view)
        view.set(frequency=3)
        view.set(frequency=4)
        assert not view.covered

    class Telling(Wave):
        covers = True

    view = Telling(strict=True)
    veil = view.widget.children[1].children[-1]
    assert view.covered
    veil.children[-1].click()
    assert not view.covered


def test_what_is_no_answer_leaves_the_cover_and_an_answer_folds_the_question():
    view = Wave(strict=True, frequency=4)
    view.answer.value = "many"
    assert view.covered and "nl-answered" not in view.widget.children[1]._dom_classes
    view.answer.value = "7"
    assert not view.covered and "nl-answered" in view.widget.children[1]._dom_classes


def test_bad_input_is_said_in_words_and_the_picture_stays(view):
    before = view.figure.data[0].y
    view.controls_by_name["label"].value = ""
    assert view.error == "the wave needs a name."
    assert "needs a name" in repr(view)
    assert view.figure.data[0].y is before
    label = view.controls_by_name["label"]
    assert "nl-wrong-field" in label._dom_classes and "nl-wrong" in view.widget._dom_classes
    view.controls_by_name["label"].value = "again"
    assert "nl-wrong-field" not in label._dom_classes and "nl-wrong" not in view.widget._dom_classes
    assert view.error == "" and view.figure.data[0].name == "again"
    with pytest.raises(CourseError, match="no control 'speed'; it has: frequency"):
        view.set(speed=2)
    with pytest.raises(CourseError, match="kind cannot be 'circle'"):
        view.set(kind="circle")


def test_a_bug_is_shown_and_raised_again_in_strict_mode(view, monkeypatch):
    with pytest.raises(ZeroDivisionError):
        view.controls_by_name["kind"].value = "broken"
    assert view.error.startswith("This view failed with ZeroDivisionError: no picture (test_shell.py, line ")
    monkeypatch.delenv("NL_COURSE_STRICT", raising=False)
    lenient = Wave()
    lenient.controls_by_name["kind"].value = "broken"
    assert "ZeroDivisionError" in lenient.error
    monkeypatch.setenv("NL_COURSE_STRICT", "1")
    with pytest.raises(ZeroDivisionError):
        Wave(kind="broken")
    with pytest.raises(CourseError, match="needs a name"):
        Wave(label="")


def test_adjust_may_change_other_controls_with_one_recompute():
    class Following(Wave):
        def adjust(self, name):
            if name == "frequency":
                self.controls_by_name["label"].value = f"wave {self.settings['frequency']}"

    view = Following(strict=True)
    view.controls_by_name["frequency"].value = 6
    assert view.computed == 2 and view.figure.layout.title.text == "wave 6"


def test_back_step_and_play_move_the_slider(view):
    back, step, play = view.stepper[0].children
    step.click()
    assert view.settings["frequency"] == 3 and view.readout == "The wave has 3 crests."
    back.click()
    play.value = 8
    assert view.readout == "The wave has 8 crests."
    view.set(frequency=9)
    step.click()
    assert view.settings["frequency"] == 9


def test_more_controls_unfold(view):
    button, box = view.fold
    assert box.layout.display == "none"
    button.value = True
    assert box.layout.display == "flex" and button.description == "Fewer controls"
    button.value = False
    assert box.layout.display == "none"


def test_the_printed_form_is_the_sentence(view):
    bundle = view._repr_mimebundle_()
    assert bundle["text/plain"] == repr(view) == "How often does a wave repeat?: The wave has 2 crests."
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert "0x" not in repr(view)


def test_only_what_changed_is_sent(view, monkeypatch):
    sent = []
    monkeypatch.setattr(view._plot, "send", lambda content: sent.append(content))
    view.set(label="other")
    [message] = sent
    change = {"revision": view._plot.figure["revision"], "data": {0: {"name": "other"}}}
    assert message == {"difference": {**change, "layout": {"title.text": "other"}}}


def test_a_browser_that_missed_something_is_sent_all(view, monkeypatch):
    sent = []
    view.set(frequency=5)
    monkeypatch.setattr(Lasting, "send_state", lambda plot, key=None: sent.append(plot.get_state(key)))
    latest = view._plot.figure["revision"]
    view._plot._asked(view._plot, {"ask": "state", "revision": latest}, [])
    assert sent == []
    view._plot._asked(view._plot, {"ask": "state", "revision": latest - 1}, [])
    [state] = sent
    assert state["figure"]["revision"] == latest and state["figure"]["layout"]["title"]["text"] == "wave"
    assert "_esm" not in state
    view._readout._asked(view._readout, {"ask": "state", "text": view.readout}, [])
    assert len(sent) == 1
    view._readout._asked(view._readout, {"ask": "state", "text": ""}, [])
    assert sent[1]["text"] == "The wave has 5 crests."


def test_the_state_is_the_picture_also_after_differences(view):
    view.set(frequency=3, label="third")
    assert view._plot.figure["data"] == plain(view.figure)["data"]
    assert view._plot.figure["layout"] == plain(view.figure)["layout"]
    assert len(json.dumps(view._plot.get_state())) < 40_000

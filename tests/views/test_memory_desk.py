"""The memory desk: its arrays worked out another way, its picture, its words, and the shell driven by its controls."""

import numpy as np
import plotly.graph_objects as go
import pytest

from nl_course.errors import CourseError
from nl_course.views.memory_desk import CONTEXTS, MemoryDesk, compute, draw, read_out

H100 = 81_559 * 2**20 / 1e9  # GB that a driver reports; the data sheet prints 80
SETTINGS = dict(model="llama-3.1-8b", context=8192, readers=16, device="h100", count=1, weights="bf16", kv="bf16")


@pytest.fixture
def view():
    return MemoryDesk(strict=True)


def test_arrays_by_hand():
    arrays = compute(SETTINGS)
    per_token = 2 * 32 * 8 * 128 * 2  # key and value, layers, kv heads, head size, bytes
    assert np.array_equal(arrays["cache"], 16 * per_token * np.array(CONTEXTS))
    assert arrays["desk"].cache == 16 * per_token * 8192 and arrays["desk"].max_batch == 56
    assert arrays["crossing"] == pytest.approx(2 * 8_030_261_248 / per_token / 16)
    full = (0.9e9 * H100 - 2 * 8_030_261_248) / per_token / 16
    assert arrays["fits_up_to"] == pytest.approx(full)


def test_the_bar_fills_the_memory_and_no_more():
    figure = go.Figure()
    draw(compute(SETTINGS), figure)
    bars = {trace.name: trace.x[0] for trace in figure.data if trace.type == "bar"}
    assert sum(bars.values()) == pytest.approx(H100) and bars["does not fit"] == 0
    assert bars["cache"] == pytest.approx(17.18, abs=0.01) and bars["kept free for buffers"] == pytest.approx(H100 / 10)
    patterns = [trace.marker.pattern.shape for trace in figure.data if trace.type == "bar"]
    assert len(set(zip(patterns, (t.marker.color for t in figure.data)))) == 5


def test_what_does_not_fit_is_drawn_beyond_the_line():
    figure = go.Figure()
    draw(compute({**SETTINGS, "context": 131072}), figure)
    bars = {trace.name: trace.x[0] for trace in figure.data if trace.type == "bar"}
    assert bars["weights"] + bars["cache"] == pytest.approx(0.9 * H100) and bars["left"] == 0
    assert bars["does not fit"] == pytest.approx(16.06 + 274.88 - 0.9 * H100, abs=0.01)


def test_marks_stand_where_lines_cross():
    figure = go.Figure()
    arrays = compute(SETTINGS)
    draw(arrays, figure)
    marks = next(trace for trace in figure.data if trace.name == "marks")
    found = dict(zip(marks.text, zip(marks.x, marks.y)))
    assert found["now"] == pytest.approx((8192, 17.18), rel=1e-3)
    assert found["cache = weights"] == pytest.approx((7658, 16.06), rel=1e-3)
    assert found["memory full"][1] == pytest.approx(0.9 * H100 - 16.06, rel=1e-3)


HYBRID = dict(SETTINGS, model="qwen3-next-80b-a3b", count=4, context=4096)


def test_a_hybrids_states_stand_beside_its_cache():
    """36 layers of 32 heads of 128 x 128 in 32 bits, and 12 that cache 2 heads of 256 in 16 bits, for 16 readers."""
    state, tails, cache = 36 * 32 * 128 * 128 * 4, 36 * 3 * 8192 * 2, 12 * 2 * 2 * 256 * 2 * 4096
    figure = go.Figure()
    draw(compute(HYBRID), figure)
    bars = {trace.name: trace.x[0] for trace in figure.data if trace.type == "bar"}
    assert bars["states"] == pytest.approx(16 * (state + tails) / 1e9) and bars["cache"] == pytest.approx(
        16 * cache / 1e9
    )
    assert sum(bars.values()) == pytest.approx(4 * H100)
    level = next(trace for trace in figure.data if trace.name == "states of all users")
    assert np.allclose(level.y, 16 * (state + tails) / 1e9)
    marks = next(trace for trace in figure.data if trace.name == "marks")
    assert dict(zip(marks.text, marks.x))["cache = states"] == pytest.approx(3072)
    arrays = compute(HYBRID)
    room = 0.9e9 * 4 * H100 - 2 * 79_674_391_296 - 16 * (state + tails)
    assert arrays["fits_up_to"] == pytest.approx(room / 16 / (12 * 2 * 2 * 256 * 2))


def test_a_hybrid_and_a_sparse_model_in_words():
    said = read_out(compute(HYBRID))
    assert "cache 1.6 GB, states 1.2 GB (and 28.3 MB of convolutions) for 16 users of 4k tokens" in said
    assert said.endswith("Up to 3,072 tokens, the states of a user are larger than the cache.")
    sparse = read_out(compute(dict(HYBRID, model="deepseek-v3.2", device="gb200", count=72)))
    assert "cache 4.6 GB, keys of the indexer 1.0 GB for 16 users" in sparse and "states" not in sparse


def test_every_control_drives_the_picture(view):
    changes = dict(model="gemma-3-27b", context=131072, readers=2, device="b200", count=8, weights="fp8", kv="int4")
    for name, value in changes.items():
        before, said = [t.to_plotly_json() for t in view.figure.data], view.readout
        view.controls_by_name[name].value = value
        assert not view.error and view.readout != said, name
        assert [t.to_plotly_json() for t in view.figure.data] != before, name
    again = go.Figure()
    draw(compute({**SETTINGS, **changes}), again)
    for shown, wanted in zip(view.figure.data, again.data, strict=True):
        assert np.array_equal(np.asarray(shown.x), np.asarray(wanted.x))


def test_the_first_row_has_two_controls_and_every_control_a_description(view):
    assert list(view.controls()) == ["model", "context"]
    assert all(control.description for control in view.controls_by_name.values())


def test_the_prediction_waits_for_its_question(view):
    assert "Set the context to 128k" in view.predict("30")
    view.set(context=131072)
    assert view.verdict == f"You predicted 30; it came out 3. {view.prediction.why}"


def test_words():
    said = read_out(compute(SETTINGS))
    assert said.startswith("Llama 3.1 8B (GQA) on 1 x H100 SXM 80 GB: weights 16.1 GB, cache 17.2 GB for 16 users")
    assert "43.7 GB of the usable 77.0 GB (nine tenths of 85.5 GB) are free. 56 such users fit" in said
    assert "Each gets at most 104 tokens per second (reading sets the pace)" in said
    assert "That is 214 GB too much. 3 such users" in read_out(compute({**SETTINGS, "context": 131072}))
    assert "weights alone need more" in read_out(compute({**SETTINGS, "model": "llama-3.1-405b"}))
    sliding = read_out(compute({**SETTINGS, "model": "mistral-7b-v0.1", "context": 2**20}))
    assert "beyond the model's own 8k" in sliding and "never outweighs" in sliding
    one = {**SETTINGS, "context": 262_144, "readers": 1}
    assert "1 such user fits" in read_out(compute(one))


def test_bad_input_is_named(view):
    with pytest.raises(CourseError, match="model 'llama'"):
        compute({**SETTINGS, "model": "llama"})
    with pytest.raises(CourseError, match="no control 'ctx'"):
        view.set(ctx=3)


def test_what_is_shown_stands_in_the_widgets_state(view):
    """A browser that is still loading the plot misses the messages that drew it; it starts from the state."""
    view.set(readers=2)
    view._repr_mimebundle_()
    state = {trace["name"]: trace for trace in view._plot.figure["data"]}
    assert state["cache"]["x"] == pytest.approx([2 * 131072 * 8192 / 1e9])
    assert view._plot.figure["layout"]["barmode"] == "stack"

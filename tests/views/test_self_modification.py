"""The layer's own numbers, the gain that linear memories share, variants, words, bad input."""

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from nl_course.errors import CourseError
from nl_course.memories import Trace
from nl_course.memories.ablations.gain import SharedGain
from nl_course.views import self_modification as view_module
from nl_course.views.self_modification import ANSWERS, NAMES, TEXT, SelfModification, compute, layer, shared_gain

SHORT = "the key opens the door and the door opens the house"
PLAIN = {"text": SHORT, "variant": "self-modifying", "step": 0.4}


def test_drift_and_gates_are_those_of_the_states_themselves():
    arrays = compute(**PLAIN)
    made = layer("self-modifying", "per-layer", "linear", 1, 1, 0.4, 0.98)
    words = SHORT.split()
    x = torch.stack([view_module.direction(w)[: view_module.WIDTH] for w in words])[None] * 8
    begun = made.init_state(1)
    for count in (1, 5, len(words)):
        _, state = made(x[:, :count], begun)
        now, start = made.weights(state), made.weights(begun)
        for name in NAMES:
            far = (now[name]["out"] - start[name]["out"]).norm() / start[name]["out"].norm()
            assert arrays["drift"][name][count - 1] == pytest.approx(float(far), rel=1e-4)
    steps = arrays["step"]
    assert steps[0] != pytest.approx(0.4, abs=1e-6) and ((steps > 0) & (steps < 1)).all() and steps.std() > 0.01


@pytest.mark.parametrize("chunk", [1, 4])
def test_one_gain_explains_linear_memories_and_is_the_layers_own(chunk):
    arrays = compute(**PLAIN, chunk=chunk, chunk_others=chunk)
    assert arrays["unexplained"] < 1e-4
    made = layer("self-modifying", "per-layer", "linear", chunk, chunk, 0.4, 0.98)
    torch.manual_seed(0)
    by_gain = SharedGain(made.config).requires_grad_(False)
    by_gain.load_state_dict(made.state_dict())
    words = SHORT.split()
    x = torch.stack([view_module.direction(w)[: view_module.WIDTH] for w in words])[None] * 8
    _, state = by_gain(x)
    own = (state.others.running or state.others.anchor)["out"][0, 0]
    assert np.allclose(arrays["gain"], own.numpy(), atol=1e-3)


def test_other_memories_and_rungs_part_ways():
    assert compute(**PLAIN, kind="mlp")["unexplained"] > 0.01
    assert compute(**PLAIN, chunk=4)["unexplained"] > 0.01  # two clocks: two gains
    rows = {variant: compute(**{**PLAIN, "variant": variant}) for variant in view_module.VARIANTS}
    assert rows["plain"]["moving"] == ["memory"] and not rows["plain"]["drift"]["key"].any()
    assert np.allclose(rows["adaptive"]["target"]["key"], 1, atol=1e-5)  # towards v itself
    assert rows["self-modifying"]["target"]["key"].mean() < 0.95


def test_the_gain_is_found_where_there_is_one():
    torch.manual_seed(0)
    P, start = torch.randn(4, 4), {n: {"out": torch.randn(1, 1, 4, 3)} for n in ("key", "memory")}
    now = {n: {"out": P @ w["out"]} for n, w in start.items()}
    found, left = shared_gain(start, now, ["key", "memory"])
    assert torch.allclose(found.float(), P, atol=1e-4) and left < 1e-5
    assert shared_gain(start, start, ["key", "memory"])[1] == 0


def test_draw_shows_the_arrays():
    arrays, figure = compute(**PLAIN), go.Figure()
    view_module.draw(arrays, figure)
    named = {trace.name: trace for trace in figure.data}
    assert np.allclose(named["retention"].y, arrays["drift"]["retention"]) or "step" in named
    assert any(np.allclose(t.y, arrays["drift"]["key"]) for t in figure.data if t.name == "key")
    assert np.allclose(named["P - I"].z, arrays["gain"] - np.eye(view_module.WIDTH))


def test_the_view_answers_and_judges():
    view = SelfModification(strict=True, text=SHORT)
    before = view.readout
    assert "explains all of it" in before and view.predict(ANSWERS[0]).endswith("variant.")
    view.set(kind="mlp")
    assert view.readout != before and "it came out" in view.verdict
    view.set(variant="plain")
    assert "never move" in view.readout and "key" in view.readout
    view.controls_by_name["text"].value = "word"
    assert "2 to 48 words" in view.error


def test_bad_settings_are_told_in_words():
    for wrong, words in (({"step": 1.0}, "first step"), ({"retention": 0.0}, "retention"), ({"kind": "deep"}, "deep")):
        with pytest.raises(CourseError, match=words):
            compute(**{**PLAIN, **wrong})
    assert Trace is not None and TEXT.split()

"""The gradient at every start against finite differences, what cuts leave, the clocks, words."""

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from nl_course.errors import CourseError
from nl_course.nested.steps import next_token_losses
from nl_course.views import nested_clocks as view_module
from nl_course.views.nested_clocks import (
    ALL,
    ANSWERS,
    BOUNDARIES,
    CHUNK,
    LEVELS,
    MEMORIES,
    NAMES,
    TOKENS,
    NestedClocks,
    compute,
    exact,
    model,
    starts_of,
    text,
)  # fmt: skip


def loss_of(made) -> torch.Tensor:
    tokens = text()
    return next_token_losses(made(tokens[:, :-1])[0], tokens[:, 1:]).sum()


def test_nothing_cut_is_the_meta_gradient_of_the_whole_text():
    made, found = model("none"), exact()
    loss = loss_of(made)
    assert found["loss"] == pytest.approx(float(loss.detach()) / TOKENS, abs=1e-9)
    for name, group in starts_of(made).items():
        gradients = torch.autograd.grad(loss, group, retain_graph=True)
        whole = torch.cat([g.flatten() for g in gradients])
        assert torch.allclose(whole, found["starts"][name], atol=1e-8), name
        assert whole.norm() > 1e-9


def test_finite_differences_agree_at_the_key_memory_and_a_level():
    made, found = model("none"), exact()
    for name in ("key", f"level of {LEVELS[0]}"):
        group = starts_of(made)[name]
        generator = torch.Generator().manual_seed(0)
        steps = [torch.randn(w.shape, generator=generator, dtype=w.dtype) * 1e-5 for w in group]
        losses = []
        for sign in (1, -2):
            with torch.no_grad():
                for w, step in zip(group, steps):
                    w += sign * step
                losses.append(float(loss_of(made)))
        with torch.no_grad():
            for w, step in zip(group, steps):
                w += step
        along = torch.cat([s.flatten() for s in steps]) @ found["starts"][name]
        assert losses[0] - losses[1] == pytest.approx(2 * float(along), rel=1e-4)


def test_cuts_cost_and_what_they_leave_differs():
    reachable, nothing = ("the start stays reachable", "nothing")
    assert compute(0, ALL)["lost_in_all"] < 1e-12
    assert compute(0, 0, reachable)["norms"]["memory"] > 0
    assert compute(0, 0, nothing)["norms"]["memory"] != pytest.approx(compute(0, 0, reachable)["norms"]["memory"])
    lost = [compute(0, passes)["lost_in_all"] for passes in (0, 3, ALL)]
    assert lost[0] > lost[1] > lost[2]
    assert compute(0, 3)["cuts"] == [4] and compute(0, 0)["cuts"] == list(range(1, BOUNDARIES))
    assert all(compute(0, p)["loss"] == pytest.approx(exact()["loss"]) for p in (0, 3))  # a cut changes no number


def test_a_memory_that_only_acts_through_writes_needs_them():
    writes = compute(0, ALL, "nothing", "write")
    assert writes["loss"] == pytest.approx(exact()["loss"])
    assert writes["norms"]["memory"] > 0 and writes["lost"]["key"] > 0.1


def test_the_gradient_arrives_where_later_tokens_read():
    rows = exact()["arriving"]
    assert len(rows) == BOUNDARIES and set(rows[0]) == set(NAMES)
    assert all(row["memory"] > 0 for row in rows)
    starts = {name: float(g.norm()) for name, g in exact()["starts"].items()}
    for name in MEMORIES:  # at the first boundary the weights are the starts
        assert rows[0][name] == pytest.approx(starts[name], rel=1e-6)


def test_draw_shows_what_has_come_back():
    for moment, come in ((0, 0), (BOUNDARIES + 3, 3), (2 * BOUNDARIES + 1, BOUNDARIES)):
        figure = go.Figure()
        view_module.draw(compute(moment), figure)
        heat = next(trace for trace in figure.data if trace.type == "heatmap")
        assert np.isfinite(np.array(heat.customdata, dtype=float)).any(0).sum() == come
        bars = next(trace for trace in figure.data if trace.name == "with the cuts")
        assert bool(np.any(bars.x)) == (moment == 2 * BOUNDARIES + 1)


def test_the_view_steps_answers_and_judges():
    view = NestedClocks(strict=True)
    assert "A gradient reaches all 8 starts" in view.readout
    view.controls_by_name["moment"].value = 3
    assert f"After {3 * CHUNK} of {TOKENS} tokens" in view.readout and "outer loop not yet" in view.readout
    view.set(moment=BOUNDARIES + 2)
    assert f"after {(BOUNDARIES - 2) * CHUNK} tokens" in view.readout
    assert view.predict(ANSWERS[1]).endswith("to 0.")
    view.set(passes=0, moment=2 * BOUNDARIES + 1)
    assert "is lost" in view.readout and "it came out" in view.verdict
    with pytest.raises(CourseError, match="moment"):
        compute(99)
    with pytest.raises(CourseError, match="pass"):
        compute(0, 99)

"""The frontier view: the recorded numbers as they are, the frontier by hand, clicks and the list, words."""

import plotly.graph_objects as go
import pytest

from nl_course.errors import CourseError
from nl_course.views import frontier as module
from nl_course.views.frontier import (
    ASKED_FIRST,
    AXES,
    GROUPS,
    LABELS,
    SHOWN,
    Frontier,
    compute,
    draw,
    key,
    on_the_frontier,
    questions,
    recorded,
)


@pytest.fixture(scope="module")
def view():
    return Frontier(strict=True)


def test_every_recorded_memory_has_a_label_and_a_group():
    memories = {point["memory"] for point in recorded()["points"]}
    assert memories <= set(LABELS) and set().union(*GROUPS.values()) == set(LABELS)
    assert len({key(point) for point in recorded()["points"]}) == len(recorded()["points"])


def test_the_frontier_by_hand():
    places = {"a": (10, 0.5), "b": (10, 0.6), "c": (20, 0.6), "d": (30, 0.9), "e": (40, 0.8)}
    assert on_the_frontier(places) == ["b", "d"]


@pytest.mark.parametrize("asked", [0, ASKED_FIRST])
def test_no_model_beats_one_on_the_frontier(asked):
    arrays = compute(asked)
    places = {name: (row["bytes"], row["mean"]) for name, row in arrays["rows"].items()}
    for size, recall in places.values():
        beaten = any(s <= size and r >= recall and (s, r) != (size, recall) for s, r in places.values())
        assert beaten or (size, recall) in {places[name] for name in arrays["frontier"]}  # as good as one there


@pytest.mark.parametrize("seeds", SHOWN)
def test_draw_shows_the_recorded_points(seeds):
    arrays, figure = compute(ASKED_FIRST, "those of every size", seeds=seeds), go.Figure()
    draw(arrays, figure)
    shown = {trace.name: trace for trace in figure.data}
    for memory in GROUPS["those of every size"]:
        points, trace = [p for p in recorded()["points"] if p["memory"] == memory], shown[LABELS[memory]]
        rows = [p["asked"][ASKED_FIRST] for p in points]
        if seeds == "each seed":
            assert list(trace.y) == [share for row in rows for share in row["by_seed"]]
        else:
            assert list(trace.y) == [row["mean"] for row in rows] and list(trace.x) == [row["bytes"] for row in rows]
            tops = [y + reach for y, reach in zip(trace.y, trace.error_y.array)]
            assert tops == pytest.approx([row["high"] for row in rows])
    assert list(shown["frontier of those shown"].y)[:-1] == [
        arrays["rows"][name]["mean"] for name in arrays["frontier"]
    ]


def test_draw_against_pairs():
    arrays, figure = compute(0, "one matrix a head", "middle", axis="pairs asked"), go.Figure()
    draw(arrays, figure)
    line = next(trace for trace in figure.data if trace.name == "delta rule, middle")
    point = next(p for p in recorded()["points"] if key(p) == "delta rule, middle")
    taught = [row for row in point["asked"] if row["power"] < 1 and "filler" not in row]
    assert list(zip(line.x, line.y)) == [(row["pairs"], row["mean"]) for row in taught]
    assert "linear (Hebb), small" not in {trace.name for trace in figure.data}


def test_list_and_click_choose_a_point_and_its_tooltip_says_its_config(view):
    assert all(control.description for control in view.controls_by_name.values())
    view.set(point="TTT-MLP, middle")
    point = next(p for p in recorded()["points"] if p["memory"] == "ttt-mlp")
    row = point["asked"][ASKED_FIRST]
    assert view.readout.startswith(f"TTT-MLP, middle, {questions()[ASKED_FIRST]}: {row['mean']:.0%} right")
    assert f"{row['bytes']:,} bytes" in view.readout and "commit" not in view.readout
    trace = next(trace for trace in view.figure.data if trace.name == "TTT-MLP")
    tip = trace.text[list(trace.customdata).index("TTT-MLP, middle")]
    assert f"{point['parameters']:,} parameters" in tip and point["runs"][0]["made"]["commit"] in tip
    assert f"loss {point['runs'][0]['curve'][-1]['loss']:.2f}" in tip and "guessing: 3.47" in tip
    ring = next(trace for trace in view.figure.data if trace.name == "chosen")
    assert (ring.x[0], ring.y[0]) == (row["bytes"], row["mean"])
    names = [trace.name for trace in view.figure.data]
    view.point_clicked(names.index("Gated DeltaNet"), 1)
    assert view.settings["point"] == "Gated DeltaNet, middle" and view.readout.startswith("Gated DeltaNet, middle")
    view.set(axis=AXES[1])
    names = [trace.name for trace in view.figure.data]
    view.point_clicked(names.index("linear (Hebb), large"), 0)
    assert view.settings["point"] == "linear (Hebb), large"
    view.point_clicked(names.index("chosen"), 0)
    assert view.settings["point"] == "linear (Hebb), large"
    view.set(axis=AXES[0])


def test_the_prediction_waits_for_all_models_and_24_pairs(view):
    view.set(asked=0, memories="all", size="all sizes")
    assert view.predict("it does").endswith("with 24 pairs asked.")
    view.set(asked=ASKED_FIRST)
    rows = [point["asked"][ASKED_FIRST] for point in recorded()["points"]]
    most = max(rows, key=lambda row: row["bytes"])
    better = sum(row["mean"] > most["mean"] for row in rows)
    came = ("it does", "a few beat it", "most beat it")[(better > 0) + (better > len(rows) // 2)]
    assert f'it came out "{came}"' in view.verdict and most["pairs"] == 24


def test_bad_input_is_refused_in_words(view):
    view.set(memories="deep memories", size="small")  # Titans alone is there
    assert view.error == "" and len(view.arrays["rows"]) == 1
    view.set(memories="all", size="all sizes")
    with pytest.raises(CourseError, match="point 'TTT-Linear, huge'"):
        compute(0, point="TTT-Linear, huge")
    with pytest.raises(CourseError, match="cannot be 99"):
        view.set(asked=99)
    with pytest.raises(CourseError, match="no model of"):
        compute(0, "all", "huge")
    assert module.recorded() is recorded()


def test_a_point_says_its_rate_and_from_how_many_seeds_its_loss_had_settled():
    runs = [{"settled": {"settled": True}}, {"settled": {"settled": False}}]
    said = module.trained_out({"rate": 0.005, "runs": runs})
    assert said == ["learning rate 0.005; settled from 1 of 2 seeds"]
    assert module.trained_out({"runs": [{}]}) == []  # a recording made before rates were searched


def test_a_question_in_the_published_form_says_so_and_is_not_one_as_taught():
    row = {"pairs": 8, "length": 32, "power": module.TEACHING}
    assert module.question(row) == "8 pairs in 32 tokens" and module.as_taught(row)
    published = {**row, "filler": "any"}
    assert module.question(published).endswith("keys in the filler") and not module.as_taught(published)

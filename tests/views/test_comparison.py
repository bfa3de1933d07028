"""The comparison's pictures: what they draw and say follows from the recording, whatever came out."""

import json

import pytest

from nl_course.errors import CourseError
from nl_course.files import asset
from nl_course.views import comparison
from nl_course.views.kit import theme


def row(first, to, mean):
    return {"from": first, "to": to, "mean": mean, "low": mean - 0.01, "high": mean + 0.01}


def text_run(last_of_titans):
    def model(end, less):
        return {
            "loss": [row(0, 16, 2.0), row(16, 64, end)],
            "less_attention": [row(0, 16, 0.0), row(16, 64, less)],
            "seeds": [{}],
        }

    models = {"attention": model(1.9, 0.0), "titans": model(1.9 + last_of_titans, last_of_titans)}
    models["attention"]["less_attention"] = [
        dict(row(0, 0, 0.0), **{"from": a, "to": b}, low=0, high=0) for a, b in ((0, 16), (16, 64))
    ]
    return {"trained_length": 16, "models": models}


def test_loss_by_position_says_who_lies_below_attention_and_who_above():
    better, worse = (comparison.loss_by_position(text_run(x)) for x in (-0.2, 0.2))
    assert "lower loss than full attention: LMM (Titans); higher: 0 of 1" in better.says and "no ranking" in better.says
    assert "lower loss than full attention: none; higher: 1 of 1" in worse.says
    attention, titans = worse.figure.data
    assert list(titans.x) == [8, 40] and list(titans.y) == [0, 0.2]
    assert titans.line.color == theme.style("titans").color and attention.line.dash != titans.line.dash
    assert titans.error_y.array == pytest.approx([0.01, 0.01])
    assert worse.figure.layout.shapes[0].x0 == 16  # the length trained with
    plain = comparison.loss_by_position(text_run(0.2), against=False)
    assert "lowest loss is attention's (1.900), the highest LMM (Titans)'s (2.100)" in plain.says


def track_run():
    def model(*shares):
        places = zip((16, 64), shares, strict=True)
        return {
            "asked": [{"low": n, "high": n, "by_place": s, "by_place_seeds": [s - 0.01, s + 0.01]} for n, s in places]
        }

    models = {"linear": model(0.3, 0.2), "delta-negative": model(1.0, 0.995), "self-modifying": model(0.99, 0.5)}
    return {"tasks": {"swaps": {"chance": 0.1667, "models": models}}}


def test_state_tracking_says_who_solves_it_and_who_still_does_beyond():
    picture = comparison.state_tracking(track_run(), "swaps")
    assert (
        "delta rule (steps to 2) and self-modifying had 99% of places right; at 64, delta rule (steps to 2)."
        in picture.says
    )
    assert "chance is 17%" in picture.says and "2 seeds" in picture.says
    linear = picture.figure.data[0]
    assert list(linear.x) == [16, 64] and linear.error_y.arrayminus == pytest.approx([0.01, 0.01])
    with pytest.raises(CourseError, match="swap"):
        comparison.state_tracking(track_run(), "swap")


def test_parity_of_another_recording_is_read_as_well():
    seeds = [{"found": {"parity": [{"low": 2, "high": 24, "by_place": x}]}} for x in (1.0, 0.5)]
    found = comparison.state_tracking({"tasks": {"parity": {"hope": {"seeds": seeds}}}}, "parity")
    assert list(found.figure.data[0].y) == [0.75] and found.figure.data[0].name == "self-modifying"
    assert "no model had 99%" in found.says and "chance is 50%" in found.says


def optimizer_run():
    def arm(kind, loss, **more):
        seeds = [{"held_out": [{"step": 2, "loss": 3.0}, {"step": 4, "loss": loss + d}]} for d in (-0.1, 0.1)]
        about = {"optimizer": kind, "options": {}, "loss": loss, "spread": 0.1, "rate": 0.3, "at_edge": False}
        return {**about, "times_adamw": 1.25, "seeds": seeds, **more}

    arms = {
        "adamw": arm("adamw", 2.0),
        "muon": arm("muon", 1.5, at_edge=True),
        "sgd": {"loss": None, "optimizer": "sgd"},
    }
    arms["dgd, weak erase"] = arm("dgd", 2.5, options={"strength": 0.01})
    return {"arms": arms}


def test_optimizers_are_listed_from_the_lowest_loss_and_edges_are_named():
    run = optimizer_run()
    picture = comparison.optimizers(run)
    order = [picture.says.index(name) for name in ("muon 1.500", "adamw 2.000 ± 0.100", "dgd, weak erase 2.500")]
    assert order == sorted(order) and "least or largest for muon" in picture.says
    assert [trace.name.split(",")[0] for trace in picture.figure.data] == ["muon", "adamw", "dgd"]
    assert list(picture.figure.data[0].y) == [3.0, 1.5] and picture.figure.data[2].line.dash == "dot"


def corpora_run():
    def one(arm, rate, learnt, forgetting):
        return {
            "arm": arm,
            "rate": rate,
            "learnt": learnt,
            "forgetting": forgetting,
            "forward": -0.2,
            "by_seed": [{}, {}],
        }

    runs = [one("plain", 0.1, 0.1, 0.05), one("plain", 0.2, 0.3, 0.2), one("cms", 0.1, 0.2, -0.01)]
    return {"corpora": ["a", "b"], "runs": runs}


def test_corpora_holds_what_is_forgotten_against_what_was_learnt():
    picture = comparison.corpora(corpora_run())
    assert "plain learned 0.300 and forgot 0.200; cms learned 0.200 and kept on gaining 0.010" in picture.says
    plain, cms = picture.figure.data
    assert list(plain.x) == [0.1, 0.3] and list(plain.y) == [0.05, 0.2] and plain.line.dash != cms.line.dash
    assert "lost 0.200 on those not yet read" in comparison.corpora(corpora_run(), "forward").says
    with pytest.raises(CourseError, match="backwards"):
        comparison.corpora(corpora_run(), "backwards")


def test_a_recording_of_another_kind_is_refused_by_name():
    with pytest.raises(CourseError, match=r"runs/optimizers\.json"):
        comparison.optimizers(track_run())
    with pytest.raises(CourseError, match=r"runs/long-text\.json"):
        comparison.loss_by_position({"tasks": {}})


def shipped(name):
    return json.loads(asset(f"runs/{name}.json").read_text())


def test_the_shipped_recordings_can_be_drawn():
    text, track, parity = shipped("long-text"), shipped("state-tracking"), shipped("hope")
    assert len(comparison.loss_by_position(text).figure.data) == len(text["models"]) == 13
    for task in track["tasks"]:
        assert len(comparison.state_tracking(track, task).figure.data) == 8
    assert len(comparison.state_tracking(parity, "parity").figure.data) == 6
    assert len(comparison.optimizers(shipped("optimizers")).figure.data) == 7
    for what in ("forgetting", "forward"):
        assert len(comparison.corpora(shipped("corpora"), what).figure.data) == 4

"""A learner's memory gets its point as the course's memories get theirs, and leaves nothing behind in the list."""

import pytest

from nl_course.errors import CourseError
from nl_course.memories import MEMORIES
from nl_course.record import frontier
from nl_course.record.sizes import settings
from nl_course.suite import copy_template, load_memory
from nl_course.views.capstone import answered, describe_point, frontier_point, recorded_points, registered
from nl_course.views.frontier import steps_of


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    return load_memory(copy_template(tmp_path_factory.mktemp("mine") / "my_memory.py"))


def test_a_point_is_made_as_the_frontier_makes_its_own(mine, tmp_path):
    names = set(MEMORIES)
    point = frontier_point(mine, steps=2, folder=tmp_path)
    assert set(MEMORIES) == names
    config = settings("frontier")
    assert point["rate"] in config["search"]["rates"] and point["search"]["tried"] == []
    assert point["memory"] == "my_memory" and point["size"] == "middle" and point["steps"] == 2
    assert [(a["pairs"], a["length"]) for a in point["asked"]] == [(a["pairs"], a["length"]) for a in config["asked"]]
    wanted = config["sizes"]["middle"]["parameters"]
    assert abs(point["parameters"] / wanted - 1) < 0.02
    state = 4 * config["sizes"]["middle"]["width"] * config["shared"]["layers"]
    assert all(a["bytes"] == a["formula"] >= state for a in point["asked"])
    assert frontier_point(mine, steps=2, folder=tmp_path) == point  # kept: nothing is trained again
    other = frontier.point("attention", "middle", [{**_part(point), "asked": _asked(point, 10**6)}], point["search"])
    table = describe_point(point, [other]).splitlines()
    assert (
        table[0] == "recall of 8 pairs in 32 tokens, size middle"
        and table[1].startswith("> my_memory")
        and table[2].startswith("  attention")
    )
    assert table[-1].endswith(f"trained for 2 steps, the others {steps_of(recorded_points()[0])})")


def _part(point):
    return {key: point[key] for key in ("parameters", "hidden", "model", "path")} | {
        **{"seed": 0, "training_seconds": 1, "made": {}, "curve": [], "settled": {}}
    }


def _asked(point, size):
    return [{**a, "bytes": size, "right": a["questions"], "rows": 1} for a in point["asked"]]


def test_a_name_that_is_taken_and_a_question_that_was_not_asked(mine, tmp_path):
    taken = load_memory(copy_template(tmp_path / "attention.py"))
    with pytest.raises(CourseError, match="called 'attention' already"), registered(taken):
        pass
    assert MEMORIES["attention"][0].__name__ == "Attention"
    with pytest.raises(CourseError, match="asked were: 4 in 64"):
        answered({"asked": [{"pairs": 4, "length": 64}]}, pairs=99)
    with pytest.raises(CourseError, match="size"):
        frontier_point(mine, size="huge")

"""What is forgotten for the same thing learned: the rule by which arms that read at several rates are compared.

A model that learns less forgets less, so that one rate of one arm beside one rate of another says nothing. Each run is
a point: its gain (how far the loss of the new text fell while it was read) and its forgetting (how far the loss of the
old text rose meanwhile). The points of an arm, from no gain and no forgetting on with growing rate, are joined by
straight lines. Arms are compared where these lines have the same gain, seed by seed: at shares of the gain that every
arm reaches with that seed. Nothing is extrapolated.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from nl_course.errors import CourseError
from nl_course.record.seeds import difference, over_seeds

SHARES = (0.5, 1.0)  # of the gain that every arm reaches
Point = tuple[float, float]  # gain, forgetting
Arms = dict[str, list[list[Point]]]  # of each arm, by seed: its points by growing rate


def line_of(points: Sequence[Point]) -> list[Point]:
    """The points that are joined: from (0, 0) on, as long as a larger rate also gains more."""
    joined = [(0.0, 0.0)]
    for gain, forgetting in points:
        if gain <= joined[-1][0]:
            break
        joined.append((gain, forgetting))
    return joined


def forgetting_at(gain: float, points: Sequence[Point]) -> float:
    """What an arm forgets at that gain, between two of its points. Raises CourseError for a gain beyond all of them."""
    joined = line_of(points)
    for (left, low), (right, high) in pairwise(joined):
        if gain <= right:
            return low + (high - low) * (gain - left) / (right - left)
    raise CourseError(f"no run of the arm gains {gain:.4f}; the most is {joined[-1][0]:.4f}.")


def at_equal_gain(arms: Arms, against: str) -> list[dict[str, Any]]:
    """For each share of SHARES and each arm: the gain (mean of the seeds), what the arm forgets there, and by how much
    more than the arm `against`, seed by seed (`difference`: below 0 it keeps more). No rows at all where an arm gains
    nothing from some seed, since no gain is shared then.

    Raises CourseError if `against` is no arm, or if arms differ in the number of seeds.
    """
    if against not in arms:
        raise CourseError(f"no arm is called {against!r}; there are: {', '.join(arms)}.")
    seeds = len(arms[against])
    reached = []
    for seed in range(seeds):
        most = []
        for name, by_seed in arms.items():
            if len(by_seed) != seeds:
                raise CourseError(f"{name!r} has {len(by_seed)} seeds, and {against!r} has {seeds}.")
            most.append(line_of(by_seed[seed])[-1][0])
        reached.append(min(most))
    if min(reached) <= 0:
        return []
    rows = []
    for share in SHARES:
        gains = [share * gain for gain in reached]
        forgotten = {}
        for name, by_seed in arms.items():
            forgotten[name] = [forgetting_at(gain, points) for gain, points in zip(gains, by_seed, strict=True)]
        for name, values in forgotten.items():
            row = {"arm": name, "share": share, "gain": over_seeds(gains)["mean"], "forgetting": over_seeds(values)}
            if name != against:
                row[f"less_{against}"] = difference(values, forgotten[against])
            rows.append(row)
    return rows

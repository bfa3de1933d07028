"""The frontier with one point more: a learner's own, beside the recorded ones, in the color of the outer loop."""

from nl_course.views import frontier
from nl_course.views.frontier import Frontier


class YourFrontier(Frontier):
    name = "frontier-yours"


def beside_the_frontier(point: dict, **settings) -> YourFrontier:
    """The frontier with `point` among its points (one of that name and size is replaced), chosen when it opens."""
    found, memory = frontier.recorded(), point["memory"]
    runs = [{**run, "made": {k: v for k, v in run["made"].items() if k != "commit"}} for run in point["runs"]]
    point = {**point, "runs": runs}  # the learner's file is in no commit of the course's
    frontier.LABELS[memory] = f"{memory} (yours)"
    frontier.GROUPS["all"] = tuple(frontier.LABELS)
    frontier.STYLES[memory] = "outer"
    others = [p for p in found["points"] if (p["memory"], p["size"]) != (memory, point["size"])]
    found["points"] = [*others, point]
    return YourFrontier(point=frontier.key(point), **settings)

"""The frontier with one point more: a learner's own, beside the recorded ones, in the color of the outer loop."""

from nl_course.views import frontier
from nl_course.views.frontier import Frontier


class YourFrontier(Frontier):
    """The frontier view under a name of its own, since its still picture is another one."""

    name = "frontier-yours"


def beside_the_frontier(point: dict, **settings) -> YourFrontier:
    """The frontier with `point` among its points (one of that name and size is replaced), chosen when it opens."""
    found, memory = frontier.recorded(), point["memory"]
    runs = []
    for run in point["runs"]:
        made = {name: value for name, value in run["made"].items() if name != "commit"}
        runs.append({**run, "made": made})  # the learner's file is in no commit of the course's
    point = {**point, "runs": runs}
    frontier.LABELS[memory] = f"{memory} (yours)"
    frontier.GROUPS["all"] = tuple(frontier.LABELS)
    frontier.STYLES[memory] = "outer"
    others = [p for p in found["points"] if (p["memory"], p["size"]) != (memory, point["size"])]
    found["points"] = [*others, point]
    return YourFrontier(point=frontier.key(point), **settings)

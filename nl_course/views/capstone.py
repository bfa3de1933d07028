"""A memory of your own gets its point on the frontier: trained and asked as the course's are, in a minute or two.

    mine = load_memory("my_memory.py")
    point = frontier_point(mine)                  # the middle size, as `nl-course record frontier` makes its points
    print(describe_point(point, beside=recorded_points()))

A point is kept under a mark of the file's text, so that asking again costs nothing until the file changes.
"""

import hashlib
import inspect
import json
from pathlib import Path
from typing import Any

from nl_course.errors import CourseError, check_choice
from nl_course.files import asset
from nl_course.record import frontier
from nl_course.record.parts import parts_folder
from nl_course.record.sizes import settings
from nl_course.scaling.formats import readable_bytes
from nl_course.suite import OwnMemory, registered
from nl_course.views import frontier as frontier_view


def frontier_point(
    mine: OwnMemory, size: str = "middle", seed: int = 0, steps: int | None = None, folder: Path | None = None
) -> dict[str, Any]:
    """The point of a learner's memory, in the frontier's own format. `steps` shortens the training, for a first look:
    a point that was trained for less stands lower than it should, and says so. Its learning rate is the middle one of
    those that the course's memories choose from."""
    config = settings("frontier")
    check_choice("size", size, config["sizes"])
    config["models"][mine.name] = {"spec": {"memory": mine.name, "conv": 4}, "sizes": [size], "seeds": [seed]}
    rates = sorted(config["search"]["rates"])
    config["search"]["rates"] = [rates[len(rates) // 2]]
    full = max(frontier_view.steps_of(point) for point in recorded_points(size))
    if steps is not None:
        config["training"] = {**config["training"], "steps": steps, "warmup": min(config["training"]["warmup"], steps)}
    folder = folder or parts_folder("capstone") / _mark(mine)
    folder.mkdir(parents=True, exist_ok=True)
    with registered(mine):
        recipe = frontier.Frontier(config=config, folder=folder)
        part = recipe.part(mine.name, size, seed)
        point = frontier.point(mine.name, size, [part], recipe.search(mine.name, size))
        return {**point, "steps": config["training"]["steps"], "full_steps": full}


def _mark(mine: OwnMemory) -> str:
    """Twelve letters that stand for the text of the learner's file."""
    return hashlib.sha256(Path(inspect.getfile(mine.memory)).read_bytes()).hexdigest()[:12]


def recorded_points(size: str = "middle") -> list[dict[str, Any]]:
    """The frontier's recorded points of a size."""
    points = json.loads(asset("runs/frontier.json").read_text("utf-8"))["points"]
    return [point for point in points if point["size"] == size]


def answered(point: dict[str, Any], pairs: int = 8, length: int | None = None) -> dict[str, Any]:
    """What a point answered of so many pairs in texts of that length (None: the shortest asked): `mean`, `low`, `high`,
    `bytes` and more."""
    same_form = [a for a in point["asked"] if "filler" not in a]
    found = [a for a in same_form if a["pairs"] == pairs and length in (None, a["length"])]
    if not found:
        there = ", ".join(f"{a['pairs']} in {a['length']}" for a in point["asked"])
        raise CourseError(f"no point was asked for {pairs} pairs in {length} tokens; asked were: {there}.")
    return min(found, key=lambda a: a["length"])


def describe_point(
    point: dict[str, Any], beside: list[dict[str, Any]], pairs: int = 8, length: int | None = None
) -> str:
    """A table, smallest state first: the point (marked >) among those of `beside` that were asked the same."""
    length = answered(point, pairs, length)["length"]
    same = []
    for other in beside:
        if (pairs, length) in [(a["pairs"], a["length"]) for a in other["asked"]]:
            same.append(other)
    rows = sorted([point, *same], key=lambda p: answered(p, pairs, length)["bytes"])
    lines = [f"recall of {pairs} pairs in {length} tokens, size {point['size']}"]
    for row in rows:
        said = answered(row, pairs, length)
        mark = ">" if row is point else " "
        seen = f"{said['mean']:6.1%} ({said['low']:.0%} to {said['high']:.0%})"
        lines.append(f"{mark} {row['memory']:16} {readable_bytes(said['bytes']):>8}  {seen}")
    if point.get("steps", 0) < point.get("full_steps", 0):
        lines.append(f"  ({point['memory']} was trained for {point['steps']} steps, the others {point['full_steps']})")
    return "\n".join(lines)

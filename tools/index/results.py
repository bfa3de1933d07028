"""The page of results: what papers claim, what came out here, and a verdict that follows from the numbers by a rule.

Each row of results.json is one claim. Numbers of ours are never typed there. A row says where a number stands, and it
is read when the page is made:

    "numbers": {
      "mag": {"at": ["points", {"memory": "mag", "size": "middle"}, "asked", {"pairs": 8, "length": 512}]},
      "ahead": {"at": [...], "less": [...]},
      "span": {"printed": "half takes (\\\\d+)"}
    }

`at` is a path into the row's recording: a name goes into an object, an object picks the one entry of a list that has
these fields (null: that lacks it), {"at": 2048, "of": "bins"} picks the entry that stands where the recording's list
"bins" has 2048, and "*" takes every entry of a list. `less` takes a second number away, seed by seed. `else` is the
number where a path ends early, for settings that a recording may leave out. `printed` is a pattern for what the
row's cell printed when the notebook was last run: its group is the number, or with `counted` how often it occurs.
`negated` turns the sign, `as` is the unit.

`outcomes` are tried in order. The first whose rules (`when`) all hold says what was found, and how that stands to the
paper. If none holds, the page is not made: the sentence and its numbers have parted, and somebody has to look.
"""

import json
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import nbformat

from nl_course.notebooks import in_order, label
from nl_course.record.seeds import difference, over_seeds
from nl_course.tasks.needle_scores import wilson
from tools.index.evidence import head, places
from tools.index.evidence import row as line
from tools.index.places import Lost, cell, data
from tools.run_notebooks import ROOT

VERDICTS = {
    "reproduced": "it came out here as it is claimed: an exact statement, or one that does not depend on size",
    "reproduced in direction": "the difference has the sign that is claimed, beyond its interval; its size is another",
    "not reproduced here": "it did not come out, or its opposite did; larger or longer training may still show it",
    "contradicted": "its opposite was calculated exactly, or measured where the claim names no size",
}
NONE = "the paper gives none"
COMPARISONS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq}
_RULE = re.compile(r"^(\S+) (<=|>=|==|<|>) (\S+)$")


@dataclass(frozen=True)
class Number:
    """A number with its interval and the values of its seeds, as far as the recording has them."""

    value: float
    low: float | None = None
    high: float | None = None
    by_seed: tuple[float, ...] = ()

    def negated(self) -> "Number":
        ends = [None if end is None else -end for end in (self.high, self.low)]
        return Number(-self.value, *ends, tuple(-value for value in self.by_seed))

    def __str__(self) -> str:
        if self.low is None:
            return f"{self.value:g}"
        return f"{self.value:g} ({self.low:g} to {self.high:g})"


# Reading a recording


@cache
def recording(name: str) -> Any:
    """A file of assets/runs."""
    path = ROOT / "assets" / "runs" / f"{name}.json"
    if not path.is_file():
        raise Lost(f"there is no recording {name!r}.")
    return json.loads(path.read_text(encoding="utf-8"))


def select(tree: Any, path: list) -> list:
    """All that a path leads to: one thing, or one for each entry where a step of the path is "*"."""
    found = [tree]
    for step in path:
        after = []
        for thing in found:
            after += _entries(tree, thing, step)
        found = after
    return found


def _entries(tree: Any, thing: Any, step: str | dict) -> list:
    """What one step of a path leads to."""
    if step == "*":
        if not isinstance(thing, list) or not thing:
            raise Lost("there is no list with entries to take every one of.")
        return thing
    if isinstance(step, str):
        if not isinstance(thing, dict) or step not in thing:
            raise Lost(f"there is no {step!r}.")
        return [thing[step]]
    if set(step) == {"at", "of"}:
        places = tree.get(step["of"], [])
        if step["at"] not in places:
            raise Lost(f"there is no {step['at']!r} in {step['of']!r}.")
        return [thing[places.index(step["at"])]]
    if not isinstance(thing, list):
        raise Lost(f"there is no list to find {step} in.")
    fitting = [entry for entry in thing if all(entry.get(name) == value for name, value in step.items())]
    if len(fitting) != 1:
        raise Lost(f"there is no single entry {step}: {len(fitting)} of {len(thing)} fit.")
    return fitting


def number(found: list) -> Number:
    """What a path led to, as one number: several are seeds, whose mean and interval are taken."""
    if len(found) > 1:
        return _of_seeds([number([thing]).value for thing in found])
    (thing,) = found
    if not isinstance(thing, dict):
        if thing is None or isinstance(thing, str | list):
            raise Lost(f"there is no number, but {thing!r}.")
        return Number(float(thing))
    seeds = tuple(thing.get("by_seed") or thing.get("values") or ())
    for name in ("mean", "accuracy", "ratio"):
        if thing.get(name) is not None:
            return Number(thing[name], thing.get("low"), thing.get("high"), seeds)
    if "right" in thing and "asked" in thing:
        return Number(thing["right"] / thing["asked"], *wilson(thing["right"], thing["asked"]))
    raise Lost(f"there is no number among {', '.join(thing)}.")


def _of_seeds(values: Sequence[float]) -> Number:
    told = over_seeds(values)
    return Number(told["mean"], told.get("low"), told.get("high"), tuple(values))


def less(first: Number, second: Number) -> Number:
    """The difference of two numbers: seed by seed over the seeds that both have, else without an interval. Recordings
    count their seeds from 0, so that the seeds of the shorter one are the first of the other."""
    common = min(len(first.by_seed or ()), len(second.by_seed or ()))
    if common:
        told = difference(first.by_seed[:common], second.by_seed[:common])
        return Number(told["mean"], told.get("low"), told.get("high"), tuple(told["values"]))
    return Number(first.value - second.value)


@cache
def printed(name: str) -> str:
    """What a cell printed when its notebook was last run."""
    place = cell(name)
    notebook = nbformat.read(ROOT / "notebooks" / f"{place.notebook}.ipynb", as_version=4)
    (found,) = [one for one in notebook.cells if one.id == place.id]
    return "".join(output.text for output in found.get("outputs", []) if output.output_type == "stream")


def read(row: dict, spec: dict) -> Number:
    """The number that `spec` describes, for this row."""
    if "printed" in spec:
        name = row["cells"][0]
        found = re.findall(spec["printed"], printed(name))
        if spec.get("counted"):
            return Number(len(found))
        if len(found) != 1:
            raise Lost(f"there is no single {spec['printed']!r} in what {name} printed: {len(found)} fit.")
        value = float(found[0].replace(",", ""))
        return Number(value / 100 if spec.get("percent") else value)
    tree = recording(row["recording"])
    try:
        told = number(select(tree, spec["at"]))
    except Lost:
        if "else" not in spec:
            raise
        return Number(spec["else"])
    if "less" in spec:
        told = less(told, number(select(tree, spec["less"])))
    return told.negated() if spec.get("negated") else told


def numbers(row: dict) -> dict[str, Number]:
    """All numbers of a row, by their names."""
    found = {}
    for name, spec in row["numbers"].items():
        try:
            found[name] = read(row, spec)
        except Lost as lost:
            raise Lost(f"{row['claim']!r}, number {name!r}: {lost}") from None
    return found


# The verdict


def holds(rule: str, found: dict[str, Number]) -> bool:
    """Whether a rule such as "mag.low > 0.5" or "first < second" holds of these numbers."""
    parts = _RULE.match(rule)
    if not parts:
        raise Lost(f"there is no such rule as {rule!r}; write for example 'mag.low > 0.5'.")
    left, compare, right = parts.groups()
    return COMPARISONS[compare](_side(left, found), _side(right, found))


def _side(text: str, found: dict[str, Number]) -> float:
    """One side of a rule: a number, or a number's name with .low or .high if an end of its interval is meant."""
    if re.fullmatch(r"-?[\d.]+", text):
        return float(text)
    name, _, part = text.partition(".")
    value = getattr(found[name], part or "value", None) if name in found else None
    if value is None:
        raise Lost(f"there is no {text!r} among {', '.join(found)}.")
    return value


def outcome(row: dict) -> dict:
    """The first outcome of a row that its numbers fit."""
    found = numbers(row)
    for candidate in row["outcomes"]:
        if all(holds(rule, found) for rule in candidate["when"]):
            return candidate
    told = "; ".join(f"{name} = {value}" for name, value in found.items())
    wanted = " | ".join(", ".join(candidate["when"]) for candidate in row["outcomes"])
    raise Lost(
        f"there is no outcome of {row['claim']!r} that fits its numbers any more. It says: "
        f"{row['outcomes'][0]['found']!r}. Wanted: {wanted}. Found: {told}."
    )


# The page

OPENING = """\
Of the {rows} claims below, {reproduced} were reproduced here and {reproduced_in_direction} more in direction, with \
models hundreds to thousands of times smaller than the papers', among them {came}.
Another {not_reproduced_here} were not reproduced here and {contradicted} are contradicted, among them {missed}.
It is worth building anyway: each mechanism is exact to its paper and runs on a laptop, so you can take it apart, see \
where a claim holds and where it does not, and say what it would take to tell."""
ABOUT = """\
Each row has a claim, what came out here, the paper's own number, and a verdict. Our numbers are read from the
recordings in `assets/runs` and from what the cells printed. The verdict follows from them by a rule in
`tools/index/results.json`, and a test fails when a sentence and its numbers part. Numbers in brackets hold 95 of 100:
over the seeds where there are several, over the questions or texts where there is one. Minutes are what a recording
says of itself as a whole; one that was made in several goes may have taken more. Numbers from the tables of *Nested
Learning* were read in transcriptions, the others in the papers. `python -m tools.index` makes this page."""

_UNITS: dict[str, tuple[Callable[[float], str], str]] = {
    "share": (lambda x: f"{100 * min(max(x, 0.0), 1.0):.0f}", " %"),
    "points": (lambda x: f"{100 * x:.0f}", " points"),
    "nats": (lambda x: f"{x:.2f}", " nats per byte"),
    "finely": (lambda x: f"{x:.3f}", " nats per byte"),
    "bytes": (lambda x: f"{x:,.0f}", " bytes"),
    "times": (lambda x: f"{x:.1f}", " times"),
    "count": (lambda x: f"{x:,.0f}", ""),
    "plain": (lambda x: f"{x:.2f}", ""),
}


def said(value: Number, unit: str) -> str:
    """A number in words, with its interval in brackets."""
    tell, name = _UNITS[unit]
    shown = [_unsigned(tell(x)) for x in (value.value, value.low, value.high) if x is not None]
    ends = f" ({shown[1]} to {shown[2]})" if len(shown) == 3 else ""
    return f"{shown[0]}{name}{ends}"


def _unsigned(text: str) -> str:
    """A rounded number without the minus that a zero may have kept."""
    return text.removeprefix("-") if not text.strip("-0.") else text


def sentence(row: dict) -> str:
    """What was found, with its numbers."""
    found = numbers(row)
    told = {name: said(found[name], spec.get("as", "plain")) for name, spec in row["numbers"].items()}
    return outcome(row)["found"].format(**told)


def trained(tree: Any) -> float:
    """Seconds of all trainings in a recording."""
    if isinstance(tree, list):
        return sum(trained(entry) for entry in tree)
    if not isinstance(tree, dict):
        return 0.0
    here = tree.get("training_seconds") or 0.0
    return here + sum(trained(entry) for entry in tree.values())


def cost(name: str | None) -> str:
    """The command that makes a recording again, its minutes, and the cores that they were measured on."""
    if name is None:
        return "the cell itself: seconds"
    tree = recording(name)
    about = tree["about"]
    # A recording made in parts has the time of its last part only; its trainings are all there.
    minutes = max(about["wall_seconds"], trained(tree)) / 60
    told = f"{minutes:.0f}" if minutes >= 1 else f"{max(minutes, 0.1):.1f}"
    cores = about.get("threads", 1)
    return f"`{about['command']}`: {told} min on {cores} core" + ("s" if cores > 1 else "")


def paper(row: dict) -> str:
    """The paper's number with its place, or that it gives none."""
    told = row["paper"]
    return f"{told['number']} ({told['source']})"


def counts(rows: list[dict]) -> dict[str, int]:
    """How many rows each verdict has."""
    reached = [outcome(row)["verdict"] for row in rows]
    return {verdict: reached.count(verdict) for verdict in VERDICTS}


def listed(rows: list[dict], verdicts: tuple[str, ...]) -> str:
    """The rows with one of these verdicts that have a short name, in one list of words."""
    names = [row["short"] for row in rows if "short" in row and outcome(row)["verdict"] in verdicts]
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else "".join(names)


def opening(rows: list[dict]) -> str:
    """Three sentences: what was reproduced, what was not, and why it is worth building."""
    n = {verdict.replace(" ", "_"): count for verdict, count in counts(rows).items()}
    came = listed(rows, ("reproduced", "reproduced in direction"))
    missed = listed(rows, ("not reproduced here", "contradicted"))
    return OPENING.format(rows=len(rows), came=came, missed=missed, **n)


def row_of_page(row: dict) -> str:
    reached = outcome(row)
    found = sentence(row) + (f" {reached['note']}" if "note" in reached else "")
    where = f"{places(row['cells'])}; {cost(row['recording'])}"
    return line(row["claim"], found, paper(row), f"**{reached['verdict']}**", where)


def page() -> str:
    """notebooks/results.md."""
    rows = data("results")
    lines = ["# Results", "", opening(rows), "", ABOUT, "", *head("verdict", "meaning", "claims")]
    for verdict, count in counts(rows).items():
        lines.append(f"| **{verdict}** | {VERDICTS[verdict]} | {count} |")
    for stem in sorted({row["cells"][0].partition("#")[0] for row in rows}, key=in_order):
        mine = [row for row in rows if row["cells"][0].startswith(f"{stem}#")]
        title = stem.partition("_")[2].replace("_", " ")
        lines += ["", f"## {label(stem)}: {title}", ""]
        lines += head("claim", "what came out here", "the paper's number", "verdict", "shown in; made by")
        lines += [row_of_page(row) for row in mine]
    return "\n".join([*lines, ""])

"""The README's list of notebooks: what each lets one say, and the minutes that its sections add up to.

What stands between `<!-- notebooks -->` and `<!-- /notebooks -->` is made from the notebooks and from sentences.json:
the tour and the core notebooks first, then the further ones. The hours that they take stand there, and in notebook 00
between `<!-- hours 00 -->` and `<!-- /hours -->`.
"""

import re
from pathlib import Path

import nbformat

from nl_course.notebooks import TOUR, all_notebooks, is_core, label
from tools.index import minutes
from tools.index.evidence import head, row
from tools.index.places import Lost, data
from tools.run_notebooks import ROOT

README = ROOT / "README.md"
FURTHER = "Further notebooks say more about the subject of a core one. No core notebook needs them."
_MARKED = re.compile(r"(<!-- notebooks -->\n).*?(\n<!-- /notebooks -->)", re.S)


def line(path: Path) -> str:
    """The row of one notebook. Raises Lost where sentences.json has none for it."""
    told = next((entry for entry in data("sentences") if entry["notebook"] == path.stem), None)
    if told is None:
        raise Lost(f"there is no sentence for {path.stem!r}.")
    called = path.stem.partition("_")[2].replace("_", " ")
    name = told.get("title", called or path.stem)
    shown = name if path.stem == TOUR else f"{label(path.stem)} {name}"
    return row(
        f"[{shown}](notebooks/{path.name})", told["sentence"], f"{minutes.total(nbformat.read(path, as_version=4))} min"
    )


def hours(_notebook: str = "") -> list[str]:
    """One sentence: the hours that the core notebooks and the further ones take, by their minutes."""
    taken = {True: 0, False: 0}
    core = 0
    for path in all_notebooks():
        if path.stem == TOUR:
            continue
        core += is_core(path.stem)
        taken[is_core(path.stem)] += minutes.total(nbformat.read(path, as_version=4))
    return [
        f"The {core} core notebooks take about {taken[True] / 60:.0f} hours with their exercises, "
        f"the further ones {taken[False] / 60:.0f} more."
    ]


def tables() -> list[str]:
    """The lines between the marks."""
    columns = ("notebook", "you can then say", "to read and try")
    first = [path for path in all_notebooks() if is_core(path.stem) or path.stem == TOUR]
    further = [path for path in all_notebooks() if path not in first]
    lines = ["", *head(*columns), *map(line, first), ""]
    if further:
        lines += [FURTHER, "", *head(*columns), *map(line, further), ""]
    lines += [*hours(), ""]
    return lines


def readme() -> str:
    """README.md with its list as it should be. Raises Lost where the marks around the list are gone."""
    made = "\n".join(tables())
    text, places = _MARKED.subn(lambda mark: mark[1] + made + mark[2], README.read_text(encoding="utf-8"))
    if places != 1:
        raise Lost(f"{README.name} has {places} lists between <!-- notebooks --> and <!-- /notebooks -->, not one.")
    return text

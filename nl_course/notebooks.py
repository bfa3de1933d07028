"""The course's notebooks: how they are named, and in which order they are read.

* `tour.ipynb` has no number. It tells the whole argument once, and comes first.
* `05_titans.ipynb` is a core notebook: a number and a name.
* `05b_inside_titans.ipynb` is a further notebook, to be read after 05 by those who want more. A second one is 05c.

A core notebook needs no further one, and a further notebook imports from the package only. Other files in the folder,
such as a learner's own notebooks, are no part of the course.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from nl_course.files import course_root

TOUR = "tour"
_NUMBERED = re.compile(r"(\d\d)([b-z]?)_\w+")


def all_notebooks(root: Path | None = None) -> list[Path]:
    """The course's notebooks in reading order. `root` is the folder that holds `notebooks/`, by default the course."""
    folder = (root or course_root()) / "notebooks"
    ours = [path for path in folder.glob("*.ipynb") if path.stem == TOUR or _NUMBERED.fullmatch(path.stem)]
    return sorted(ours, key=lambda path: in_order(path.stem))


def in_order(stem: str) -> tuple[str, str, str]:
    """What sorts notebooks into reading order: the tour, then by number, the core one before its further ones."""
    return number_of(stem), label(stem), stem


def number_of(stem: str) -> str:
    """The number that a core notebook shares with its further ones, such as "05"; "" for the tour."""
    found = _NUMBERED.fullmatch(stem)
    return found[1] if found else ""


def label(stem: str) -> str:
    """What a notebook is called in tables and links: "05", "05b", or for the tour its whole name."""
    found = _NUMBERED.fullmatch(stem)
    return found[1] + found[2] if found else stem


def is_core(stem: str) -> bool:
    """Whether it is one of the numbered notebooks that every reader is to read."""
    return label(stem) == number_of(stem) != ""


def named(name: str, stems: Sequence[str]) -> str | None:
    """The one among `stems` that a learner means by a name or a label ("05b", "5"); None if there is none."""
    if name in stems:
        return name
    padded = re.sub(r"^\d(?=[b-z]?$)", r"0\g<0>", name)
    return next((stem for stem in stems if _NUMBERED.fullmatch(stem) and label(stem) == padded), None)

"""Parts of a recording that takes more than one sitting, kept in the checkout until the recording is whole.

    python -m nl_course.record.unfinished sceptic      puts its finished parts into unfinished/sceptic/, to be committed
    nl-course record sceptic                           takes them up, on any machine, and makes the rest

A part is known by everything that is asked of it (`parts.mark`). One that was made for other settings is made anew.
Once the recording is written its folder here has served, and is to be removed.
"""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from nl_course.files import course_root
from nl_course.record.parts import parts_folder


def left_folder(recipe: str) -> Path:
    """Where the parts of an unfinished recording stand in a checkout."""
    return course_root() / "unfinished" / recipe


def finished_parts(folder: Path) -> Iterator[Path]:
    """The files of finished parts below `folder`, relative to it: results and models, not the runs that made them."""
    for pattern in ("*.json", "*.safetensors", "search/*.json"):
        yield from sorted(path.relative_to(folder) for path in folder.glob(pattern))


def leave(recipe: str) -> list[Path]:
    """Copies the finished parts of a recipe from the cache into the checkout; returns what was copied."""
    return _copied(parts_folder(recipe), left_folder(recipe))


def take_up(recipe: str) -> list[Path]:
    """Copies parts that stand in the checkout into the cache, unless it has its own; returns what was copied."""
    return _copied(left_folder(recipe), parts_folder(recipe))


def _copied(source: Path, target: Path) -> list[Path]:
    """Copies finished parts that `target` lacks."""
    copied = []
    for name in finished_parts(source):
        if not (target / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, target / name)
            copied.append(target / name)
    return copied


if __name__ == "__main__":
    for named in sys.argv[1:]:
        print(f"{named}: {len(leave(named))} files into {left_folder(named)}")

"""The whole course as static pages: `nl-course export DIR`. They read well offline, in any browser, without Python.

    from nl_course.export import export
    export("site")                 # runs every notebook, so that its plots are there and live
    export("site", run=False)      # from what the notebooks hold as they stand: text, code, sentences; no plots

Every notebook becomes a page and a set of slides; README.md becomes the front page, and what else the course has to
read (`notebooks/*.md`, CONTRIBUTING.md) a page each. Formulas are turned into MathML, plotly's own file is copied
beside the pages: nothing is fetched. A view is shown as its plot at the settings it opens with, and its sentence.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

import nbformat

from nl_course.errors import CourseError, check_choice, check_int
from nl_course.export.running import run_notebook
from nl_course.files import course_root, write_atomically

PLAIN = ("LICENSE", "CITATION.cff", "environment.yml")  # what pages link to that is no page


@dataclass
class Exported:
    """What was written where; `failed` has, by notebook, the cell that failed, in words."""

    folder: Path
    pages: list[Path] = field(default_factory=list)
    slides: list[Path] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def export(
    folder: str | os.PathLike,
    notebooks: Sequence[str] | None = None,
    *,
    run: bool = True,
    jobs: int = 2,
    say: Callable[[str], None] = print,
) -> Exported:
    """Writes the pages into `folder`, which is made or added to. `notebooks` are names or their beginnings ("03"), all
    if None; `jobs` of them run at once. A notebook with a failing cell gets its page with what came before, and is in
    `failed`. Raises CourseError for an unknown notebook and for a folder inside the course's notebooks or assets."""
    from nl_course.export import documents, pages, slides

    check_int("jobs", jobs, 1)
    root, folder = course_root().resolve(), Path(folder).expanduser().resolve()
    if folder == root or any(folder.is_relative_to(root / part) for part in ("notebooks", "assets", "nl_course")):
        raise CourseError(f"the pages cannot stand in the course's own folder {folder}; choose another one.")
    sources = chosen(root, notebooks)
    done, titles = Exported(folder), {path.stem: pages.title_of(path) for path in all_notebooks(root)}
    copy_files(root, folder)

    def one(path: Path) -> tuple[Path, nbformat.NotebookNode, str]:
        return path, *(run_notebook(path, jobs) if run else (nbformat.read(path, as_version=4), ""))

    with ThreadPoolExecutor(jobs) as pool:
        for path, notebook, wrong in pool.map(one, sources):
            if wrong:
                done.failed[path.stem] = wrong
            for kind, write in ((done.pages, pages.page), (done.slides, slides.page)):
                name = f"{path.stem}.html" if write is pages.page else f"{path.stem}.slides.html"
                kind.append(write_text(folder / name, write(notebook, path.stem, titles)))
            say(f"{path.stem}: {'a cell failed' if wrong else 'written'}")
    for name, text in documents.pages(root, titles).items():
        done.pages.append(write_text(folder / name, text))
    return done


def all_notebooks(root: Path) -> list[Path]:
    """The course's notebooks in reading order."""
    return sorted((root / "notebooks").glob("[0-9]*.ipynb"))


def chosen(root: Path, names: Sequence[str] | None) -> list[Path]:
    """The notebooks meant by names or by their beginnings, in reading order."""
    known = {path.stem: path for path in all_notebooks(root)}
    if names is None:
        return list(known.values())
    meant = set()
    for name in names:
        stem = Path(name).name.removesuffix(".ipynb")
        begin = [full for full in known if stem and full.startswith(stem)]
        meant.add(begin[0] if len(begin) == 1 else check_choice("notebook", stem, known))
    return [path for stem, path in known.items() if stem in meant]


def copy_files(root: Path, folder: Path) -> None:
    """What the pages show or stand on: previews, plotly's script, the style."""
    import plotly

    files = folder / "files"
    files.mkdir(parents=True, exist_ok=True)
    shutil.copytree(root / "assets" / "previews", folder / "previews", dirs_exist_ok=True)
    shutil.copyfile(Path(plotly.__file__).parent / "package_data" / "plotly.min.js", files / "plotly.min.js")
    for name in ("course.css", "slides.js"):
        write_text(files / name, (resources.files("nl_course.export") / "files" / name).read_text(encoding="utf-8"))
    for name in PLAIN:
        if (root / name).is_file():
            shutil.copyfile(root / name, folder / name)


def write_text(path: Path, text: str) -> Path:
    return write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))

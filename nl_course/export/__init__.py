"""The whole course as static pages: `nl-course export DIR`. They can be read offline, in any browser, without Python.

    from nl_course.export import export
    export("site")                 # runs every notebook, so that its plots are there and live
    export("site", run=False)      # uses the outputs that the notebooks hold: text, code, sentences; no plots

Every notebook becomes a page and a set of slides. README.md becomes the front page; the other texts of the course
(`notebooks/*.md`, CONTRIBUTING.md) become a page each. Formulas are turned into MathML, and plotly's own file is copied
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

PLAIN_FILES = ("LICENSE", "CITATION.cff", "environment.yml")  # files that pages link to and that are copied as they are


@dataclass
class Exported:
    """What was written where; `failed` is notebook -> the error of the cell that failed, in one line."""

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
    """Writes the pages into `folder`, which is made or added to.

    `notebooks` are names or their beginnings ("03"), all if None; `jobs` of them run at once; `say` is given a line for
    each that is done. A notebook with a failing cell gets a page with what came before it, and is in `failed`. Raises
    CourseError for an unknown notebook and for a folder inside the course's notebooks or assets.
    """
    from nl_course.export import documents, pages, slides

    check_int("jobs", jobs, 1)
    root = course_root().resolve()
    folder = Path(folder).expanduser().resolve()
    if folder == root or any(folder.is_relative_to(root / part) for part in ("notebooks", "assets", "nl_course")):
        raise CourseError(f"the pages cannot stand in the course's own folder {folder}; choose another one.")
    sources = chosen(root, notebooks)
    exported = Exported(folder)
    titles = {path.stem: pages.title_of(path) for path in all_notebooks(root)}
    copy_files(root, folder)

    def read(path: Path) -> tuple[nbformat.NotebookNode, str]:
        if run:
            return run_notebook(path, jobs)
        return nbformat.read(path, as_version=4), ""

    # Threads are enough: each notebook runs in a process of its own, its kernel.
    with ThreadPoolExecutor(jobs) as pool:
        for path, (notebook, error) in zip(sources, pool.map(read, sources), strict=True):
            name = path.stem
            if error:
                exported.failed[name] = error
            page = pages.page(notebook, name, titles)
            exported.pages.append(write_text(folder / f"{name}.html", page))
            slide_page = slides.page(notebook, name, titles)
            exported.slides.append(write_text(folder / f"{name}.slides.html", slide_page))
            say(f"{name}: {'a cell failed' if error else 'written'}")
    for name, text in documents.pages(root, titles).items():
        exported.pages.append(write_text(folder / name, text))
    return exported


def all_notebooks(root: Path) -> list[Path]:
    """The course's notebooks in reading order."""
    return sorted((root / "notebooks").glob("[0-9]*.ipynb"))


def chosen(root: Path, names: Sequence[str] | None) -> list[Path]:
    """The notebooks meant by names or by their beginnings, in reading order; all if `names` is None.

    Raises CourseError for a name that fits none of them or several.
    """
    known = {path.stem: path for path in all_notebooks(root)}
    if names is None:
        return list(known.values())
    stems = set()
    for name in names:
        stem = Path(name).name.removesuffix(".ipynb")
        matching = [full for full in known if stem and full.startswith(stem)]
        stems.add(matching[0] if len(matching) == 1 else check_choice("notebook", stem, known))
    return [path for stem, path in known.items() if stem in stems]


def copy_files(root: Path, folder: Path) -> None:
    """Copies what the pages show or need: previews, plotly's script, the style, files that they link to."""
    import plotly

    files = folder / "files"
    files.mkdir(parents=True, exist_ok=True)
    shutil.copytree(root / "assets" / "previews", folder / "previews", dirs_exist_ok=True)
    shutil.copyfile(Path(plotly.__file__).parent / "package_data" / "plotly.min.js", files / "plotly.min.js")
    for name in ("course.css", "slides.js"):
        write_text(files / name, (resources.files("nl_course.export") / "files" / name).read_text(encoding="utf-8"))
    for name in PLAIN_FILES:
        if (root / name).is_file():
            shutil.copyfile(root / name, folder / name)


def write_text(path: Path, text: str) -> Path:
    """Writes a text whole or not at all; returns its path."""
    return write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))

"""The whole course as static pages: `nl-course export DIR`. They can be read offline, in any browser, without Python.

    from nl_course.export import export
    export("site")                 # runs every notebook, so that its plots are there and live
    export("site", run=False)      # takes the outputs that the notebooks hold: text, small pictures for plots

The pages are written into a new or empty folder, or into one that an export has written before:
`.nl_course_export.json` there says what was written. Files of somebody else are never replaced, and links are not
followed.

Every notebook becomes a page and a set of slides (slides.py), with speaker's notes and an overview. README.md becomes
the front page; the other texts of the course (`notebooks/*.md`, CONTRIBUTING.md) become a page each. Formulas are
turned into MathML, and plotly's own file is copied beside the pages: nothing is fetched. A notebook's page and its
slides share one file of figures. A view opens with its plot and its sentence, and up to three of its controls move
both over a grid of pictures that was computed when the notebook ran (`views/kit/grid.py`); the live widget's own code
draws them. The stage (stage.py) reads and writes on a page as it does in a notebook.
"""

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

import nbformat

from nl_course.errors import CourseError, check_choice, check_int
from nl_course.export.running import run_notebook
from nl_course.files import PICTURES, check_folder, course_root, reason
from nl_course.manifest import Manifest
from nl_course.notebooks import all_notebooks, named

PLAIN_FILES = ("LICENSE", "CITATION.cff", "environment.yml")  # files that pages link to and that are copied as they are
_WRITTEN = ".nl_course_export.json"  # in an export: the manifest of what was written there


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
    """Writes the pages into `folder`: a new or empty one, or an earlier export, which is brought up to date.

    `notebooks` are names or labels ("03", "05b"), all if None; `jobs` of them run at once; `say` is given a line for
    each that is done. A notebook with a failing cell gets a page with what came before it, and is in `failed`. Raises
    CourseError for an unknown notebook, for a folder inside the course's notebooks or assets, and, before anything is
    done, for a folder that holds files of somebody else in place of the pages.
    """
    from nl_course.export import cells, documents, pages, slides

    check_int("jobs", jobs, 1)
    root = course_root().resolve()
    folder = check_folder(Path(folder).expanduser(), "the pages' folder").resolve()
    if folder == root or any(folder.is_relative_to(root / part) for part in ("notebooks", "assets", "nl_course")):
        raise CourseError(f"the pages cannot stand in the course's own folder {folder}; choose another one.")
    sources = chosen(root, notebooks)
    exported = Exported(folder)
    titles = {path.stem: pages.title_of(path) for path in all_notebooks(root)}
    files = fixed_files(root)
    texts = documents.pages(root, titles)
    of_notebooks = [f"{path.stem}.{kind}" for path in sources for kind in ("html", "slides.html")]
    of_notebooks += [f"figures/{path.stem}.js" for path in sources]
    manifest = opened(folder, [*files, *texts, *of_notebooks])

    def write(path: str, content: bytes) -> Path:
        """Writes one file of the site. Raises CourseError if the disk refuses."""
        try:
            return manifest.write(path, content)
        except OSError as error:
            raise CourseError(f"cannot write {folder / path}: {reason(error)}.") from error

    def read(path: Path) -> tuple[nbformat.NotebookNode, str]:
        """A notebook and its log: run again, or as it is stored, with an empty log."""
        if run:
            return run_notebook(path, jobs)
        return nbformat.read(path, as_version=4), ""

    for path, content in files.items():
        write(path, content)
    # Threads are enough: each notebook runs in a process of its own, its kernel.
    pool = ThreadPoolExecutor(min(jobs, len(sources)))
    try:
        for path, (notebook, error) in zip(sources, pool.map(read, sources), strict=True):
            name = path.stem
            if error:
                exported.failed[name] = error
            write(f"figures/{name}.js", figures_file(cells.figures(notebook.cells, name)))
            page = pages.page(notebook, name, titles)
            exported.pages.append(write(f"{name}.html", page.encode()))
            slide_page = slides.page(notebook, name, titles)
            exported.slides.append(write(f"{name}.slides.html", slide_page.encode()))
            say(f"{name}: {'a cell failed' if error else 'written'}")
    finally:
        pool.shutdown(cancel_futures=True)  # after ctrl-C no further notebook is begun
    for name, text in texts.items():
        exported.pages.append(write(name, text.encode()))
    manifest.save()
    return exported


def figures_file(figures: dict[str, dict]) -> bytes:
    """The script that hands a notebook's figures to `player.js`; a page opened from a disk may load no other file."""
    text = json.dumps(figures, separators=(",", ":"))
    return f"Object.assign(window.nlFigures ??= {{}}, {text});\n".encode()


def opened(folder: Path, paths: Sequence[str], written: str = _WRITTEN, what: str = "export") -> Manifest:
    """The manifest of a folder into which `paths` are to be written. `written` is the manifest's file there, and `what`
    is what an error calls that which is written.

    Raises CourseError unless the folder is new, empty, or an earlier export in which these files are as it left them.
    """
    manifest = Manifest(folder, written)
    if not manifest.is_there and folder.is_dir() and any(folder.iterdir()):
        raise CourseError(
            f"{folder} holds files, and no list of an earlier {what} says that they are its own; "
            "give a new or an empty folder."
        )
    for path in paths:
        try:
            present = manifest.present(path)
        except OSError as error:
            raise CourseError(f"cannot read {folder / path}: {reason(error)}.") from error
        if present is not None and not manifest.knows(path, present):
            raise CourseError(
                f"{folder / path} is not as an {what} left it, and is not replaced; move it away, or give another "
                "folder."
            )
    return manifest


def chosen(root: Path, names: Sequence[str] | None) -> list[Path]:
    """The notebooks meant by names or labels, in reading order; all if `names` is None.

    Raises CourseError for a name that fits none of them or several.
    """
    known = {path.stem: path for path in all_notebooks(root)}
    if names is None:
        return list(known.values())
    stems = set()
    for name in names:
        stem = Path(name).name.removesuffix(".ipynb")
        stems.add(named(stem, list(known)) or check_choice("notebook", stem, known))
    return [path for stem, path in known.items() if stem in stems]


def fixed_files(root: Path) -> dict[str, bytes]:
    """What the pages show or need, by its path in the export: pictures, plotly's script, the style, files that they
    link to."""
    import plotly

    from nl_course.export import stage
    from nl_course.views.kit.lasting import FILES
    from nl_course.views.kit.plot import Plot

    files = {}
    for kind in PICTURES:
        for path in sorted((root / "assets" / kind).glob("*")):
            files[f"{kind}/{path.name}"] = path.read_bytes()
    files["files/plotly.min.js"] = (Path(plotly.__file__).parent / "package_data" / "plotly.min.js").read_bytes()
    own = resources.files("nl_course.export") / "files"
    for name in ("course.css", "slides.js"):
        files[f"files/{name}"] = (own / name).read_bytes()
    files["files/kit.css"] = (FILES / "kit.css").read_bytes()
    # The widget's module becomes a part of one plain script: a page opened from a disk may import no module. The player
    # stands in a block of its own, so that its names and the widget's may be the same.
    widget = Plot._esm.replace("export default {", "const widget = {")
    player = (own / "player.js").read_text("utf-8")
    files["files/player.js"] = f'(() => {{\n"use strict";\n{widget}\n{{\n{player}}}\n}})();\n'.encode()
    files |= stage.files()
    for name in PLAIN_FILES:
        if (root / name).is_file():
            files[name] = (root / name).read_bytes()
    return files

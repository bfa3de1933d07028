"""`nl-course lab`: JupyterLab on the course, quiet and offline; and a learner's own copy that updates never overwrite.

In a copy, a notebook whose cells the learner has not changed follows the course; one that was changed is kept, and the
command says so. `.nl_course_copy.json` in the copy remembers what was written there.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from nl_course.errors import CourseError, check_choice
from nl_course.files import cache_folder, check_writable, course_root, reason, write_atomically

START = "00_start_here.ipynb"
_WRITTEN = ".nl_course_copy.json"  # in a copy: notebook -> fingerprint of what the course wrote there last
# No news pop-up and no check for updates: both would ask a server, and neither has to do with the course.
# The glossary opens as a page to read, not as Markdown to edit.
_SETTINGS = {
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/docmanager-extension:plugin": {"defaultViewers": {"markdown": "Markdown Preview"}},
}


# -- the copy -------------------------------------------------------------------------------------------------
@dataclass
class CopyResult:
    """What became of each notebook, by file name; printed, in sentences."""

    folder: Path
    added: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)  # hold the learner's changes
    behind: list[str] = field(default_factory=list)  # kept, and the course's own has changed since
    saved_as: str = ""  # where a reset notebook's earlier version went

    def __str__(self) -> str:
        lines = []
        for what, names in (("Added", self.added), ("Updated", self.updated), ("Kept with your changes", self.kept)):
            if names:
                lines.append(f"{what}: {', '.join(sorted(names))}.")
        if self.behind:
            names = ", ".join(sorted(self.behind))
            lines.append(f"The course has a newer version of: {names}. `--reset NOTEBOOK` takes it and keeps yours.")
        if self.saved_as:
            lines.append(f"Your version was kept as {self.saved_as}.")
        return "\n".join(lines or ["The copy is up to date."])


def copy_course(folder: str | os.PathLike, reset: str | None = None, student: bool = False) -> CopyResult:
    """Makes or updates a learner's copy of the notebooks in `folder`.

    `reset` names a notebook that is put back; the learner's version is kept under a dated name. `student` leaves the
    solution cells out. Raises CourseError for a folder that cannot be written or lies inside the course, and for an
    unknown notebook.
    """
    folder = Path(folder).expanduser().resolve()
    root = course_root().resolve()
    if folder == root or any(folder.is_relative_to(root / part) for part in ("notebooks", "assets")):
        raise CourseError(f"a copy cannot stand in the course's own folder {folder}; choose another one.")
    sources = {path.name: path for path in sorted((root / "notebooks").glob("*.ipynb"))}
    if not sources:
        raise CourseError(f"the course's notebooks are missing from {root / 'notebooks'}.")
    if reset is not None:
        reset = _notebook_named(reset, sources)
    transform = _without_solutions if student else _as_it_is
    try:
        (folder / "notebooks").mkdir(parents=True, exist_ok=True)
        result = _copy_notebooks(sources, folder, reset, transform)
        # Glossary and evidence are pages to read; nobody is expected to edit them, so they always follow the course.
        for page in sorted((root / "notebooks").glob("*.md")):
            _write_text(folder / "notebooks" / page.name, page.read_text(encoding="utf-8"))
        previews = root / "assets" / "previews"
        if previews.is_dir():
            shutil.copytree(previews, folder / "assets" / "previews", dirs_exist_ok=True)
    except OSError as error:
        raise CourseError(f"cannot write the copy into {folder}: {error.strerror or error}.") from error
    return result


def _copy_notebooks(
    sources: dict[str, Path], folder: Path, reset: str | None, transform: Callable[[str], str]
) -> CopyResult:
    result = CopyResult(folder)
    written = _read_written(folder)
    for name, source in sources.items():
        text = transform(source.read_text(encoding="utf-8"))
        latest = fingerprint(text)
        target = folder / "notebooks" / name
        if not target.exists():
            result.added.append(name)
        else:
            present = fingerprint(target.read_text(encoding="utf-8", errors="replace"))
            # The learner has changed what is neither what the course wrote last nor what it would write now.
            changed = present not in (written.get(name), latest)
            if name == reset:
                if changed:
                    result.saved_as = _save_under_date(target)
                result.updated.append(name)
            elif changed:
                result.kept.append(name)
                if written.get(name) != latest:
                    result.behind.append(name)
                continue
            elif present == latest:
                written[name] = present
                continue
            else:
                result.updated.append(name)
        _write_text(target, text)
        written[name] = latest
        # After every notebook: if the copy breaks off, the ones it has written are not taken for the learner's.
        _write_text(folder / _WRITTEN, json.dumps(written, indent=1) + "\n")
    _write_text(folder / _WRITTEN, json.dumps(written, indent=1) + "\n")
    return result


def fingerprint(notebook: str) -> str:
    """A hash of what an author writes in a notebook: kinds and sources of its cells. Running it changes nothing."""
    try:
        cells = [[cell["cell_type"], "".join(cell["source"])] for cell in json.loads(notebook)["cells"]]
    except (ValueError, TypeError, KeyError):
        return hashlib.sha256(notebook.encode()).hexdigest()[:12]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()[:12]


def _read_written(folder: Path) -> dict[str, str]:
    """What the course wrote into a copy. Without that file every notebook that differs counts as the learner's own,
    which loses nothing."""
    try:
        written = json.loads((folder / _WRITTEN).read_text(encoding="utf-8"))
        return {str(name): str(value) for name, value in written.items()}
    except (OSError, ValueError, AttributeError):
        return {}


def _save_under_date(target: Path) -> str:
    """Renames a learner's notebook after today; returns the new name, which no file had."""
    stem = f"{target.stem}_{datetime.now():%Y-%m-%d}"
    path = target.with_name(f"{stem}.ipynb")
    number = 2
    while path.exists():
        path = target.with_name(f"{stem}_{number}.ipynb")
        number += 1
    target.rename(path)
    return path.name


def _notebook_named(name: str, sources: dict[str, Path]) -> str:
    """The notebook that the learner means: its file name, with or without its ending, or its number."""
    wanted = Path(name).name.removesuffix(".ipynb")
    matching = [source for source in sources if source.removesuffix(".ipynb") == wanted]
    if not matching and wanted.isdigit():
        matching = [source for source in sources if source.startswith(f"{int(wanted):02d}_")]
    if matching:
        return matching[0]
    return check_choice("notebook", f"{wanted}.ipynb", sources)


def _as_it_is(text: str) -> str:
    return text


def _without_solutions(text: str) -> str:
    from nl_course.app.student import strip_notebook

    return strip_notebook(text)


def _write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


# -- the server -----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class NeededFolder:
    """A folder without which JupyterLab does not start: what it is, where (`find` may raise OSError), what to do if it
    cannot be written."""

    what: str
    find: Callable[[], Path]
    remedy: str


def needed_folders() -> tuple[NeededFolder, ...]:
    """The folders that `launch` and JupyterLab write into before the first page is shown."""

    def runtime_folder() -> Path:
        from jupyter_core.paths import jupyter_runtime_dir

        return Path(jupyter_runtime_dir())

    return (
        NeededFolder("the cache folder", cache_folder, "set NL_COURSE_CACHE to a folder that can be written"),
        NeededFolder(
            "Jupyter's runtime folder", runtime_folder, "set JUPYTER_RUNTIME_DIR to a folder that can be written"
        ),
    )


def launch(folder: Path | None = None, browser: bool = True, port: int | None = None) -> int:
    """Runs JupyterLab on the course, or on a copy of it, until it is stopped; returns its exit code.

    Raises CourseError if the first notebook is missing, or JupyterLab could not write what it must.
    """
    for needed in needed_folders():
        try:
            check_writable(needed.find())
        except OSError as error:
            raise CourseError(f"{needed.what} cannot be written ({reason(error)}); {needed.remedy}.") from error
    command, environment = command_line(folder, browser, port)
    server = subprocess.Popen(command, env=environment)
    while True:
        try:
            code = server.wait()
            return code if code >= 0 else 128 - code  # -15: ended by signal 15, which shells call 143
        except KeyboardInterrupt:  # ctrl-C reached the server too, which asks and shuts down by itself
            continue


def command_line(
    folder: Path | None = None, browser: bool = True, port: int | None = None
) -> tuple[list[str], dict[str, str]]:
    """The command that `launch` runs, and its environment. The learner's own Jupyter settings stay in force.

    Raises CourseError if the first notebook is missing.
    """
    root = course_root() if folder is None else folder
    first = root / "notebooks" / START
    if not first.is_file():
        raise CourseError(f"the first notebook is missing: {first}; restore it, or reset the copy.")
    # These are defaults only: whatever a learner has set in JupyterLab wins over them.
    settings = cache_folder() / "jupyter"
    _write_text(settings / "labconfig" / "default_setting_overrides.json", json.dumps(_SETTINGS, indent=1) + "\n")
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        f"--LabApp.default_url=/lab/tree/notebooks/{START}",
        f"--ServerApp.root_dir={root}",
        "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.extension_manager=readonly",  # it would ask a server which extensions there are
    ]
    if not browser:
        command.append("--no-browser")
    if port is not None:
        command.append(f"--port={port}")
    # Jupyter refuses to run as root unless told otherwise; in containers root is the only user there is.
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")
    paths = [str(settings), os.environ.get("JUPYTER_CONFIG_PATH", "")]
    return command, {**os.environ, "JUPYTER_CONFIG_PATH": os.pathsep.join(path for path in paths if path)}

"""`nl-course lab`: JupyterLab on a learner's own copy of the course, quiet and offline, that updates never overwrite.

The course's own notebooks are left as they are, so that `git pull` finds nothing changed, and an installation that many
share is never written to.

In a copy, a notebook whose cells the learner has not changed follows the course; one that was changed is kept, and the
command says so. The same holds for pages and pictures. `.nl_course_copy.json` in the copy remembers what was written
there; of pages and pictures in copies that older versions made, the course itself knows which it handed out.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from pathlib import Path

from nl_course.errors import CourseError, check_choice
from nl_course.files import (
    PICTURES,
    cache_folder,
    check_folder,
    check_writable,
    course_root,
    parse_json,
    read_json,
    reason,
    write_atomically,
)
from nl_course.manifest import NOT_PLAIN, Manifest, digest
from nl_course.notebooks import all_notebooks, named
from nl_course.progress import COPY

START = "00_start_here.ipynb"
COPY_IN_CHECKOUT = "my_course"  # git ignores it
COPY_AT_HOME = "nested-learning"
# No news pop-up and no check for updates: both would ask a server, and neither has to do with the course.
# The glossary opens as a page to read, not as Markdown to edit.
_SETTINGS = {
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/docmanager-extension:plugin": {"defaultViewers": {"markdown": "Markdown Preview"}},
}


# -- the copy -------------------------------------------------------------------------------------------------
def is_checkout() -> bool:
    """Whether the course that runs is a checkout, not one that was installed as a wheel."""
    return (course_root() / "pyproject.toml").is_file()


def own_copy() -> Path:
    """Where a learner's copy is kept if they name no folder: `my_course` in the checkout, where one looks for it.

    Where the course was installed as a wheel, or a checkout is shared and cannot be written, it is `nested-learning` in
    the learner's home folder. Raises CourseError if they have no home.
    """
    if is_checkout():
        in_checkout = course_root() / COPY_IN_CHECKOUT
        try:
            check_writable(in_checkout if in_checkout.is_dir() else course_root())
            return in_checkout
        except OSError:
            pass  # a shared checkout, or somebody else's copy in it
    home = os.path.expanduser("~")
    if home.startswith("~"):
        raise CourseError("this user has no home folder to keep a copy of the course in; add --copy DIR.")
    return Path(home) / COPY_AT_HOME


@dataclass
class CopyResult:
    """What became of each notebook, page and picture, by file name; printed, in sentences."""

    folder: Path
    added: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)  # hold the learner's changes
    behind: list[str] = field(default_factory=list)  # kept, and the course's own has changed since
    left_alone: list[str] = field(default_factory=list)  # links and folders of the learner's under these names
    saved_as: str = ""  # where a reset notebook's earlier version went

    def __str__(self) -> str:
        lines = []
        for what, names in (
            ("Added", self.added),
            ("Updated", self.updated),
            ("Kept with your changes", self.kept),
            ("Left alone, because it is a link or no plain file", self.left_alone),
        ):
            if names:
                lines.append(f"{what}: {', '.join(sorted(names))}.")
        if self.behind:
            names = ", ".join(sorted(self.behind))
            lines.append(f"The course has a newer version of: {names}. `--reset NOTEBOOK` takes it and keeps yours.")
        if self.saved_as:
            lines.append(f"Your version was kept as {self.saved_as}.")
        return "\n".join(lines or ["The copy is up to date."])


def copy_course(folder: str | os.PathLike, reset: str | None = None) -> CopyResult:
    """Makes or updates a learner's copy of the course's notebooks, pages and pictures in `folder`.

    What is there follows the course if the course wrote it and nobody has changed it since; running a notebook is no
    change. All else is kept. `reset` names a notebook or page that is put back; the learner's version is kept under a
    dated name. Raises CourseError for a folder that cannot be written, lies inside the course, or has links where the
    copy's own folders would be; and for an unknown notebook.
    """
    folder = check_folder(Path(folder).expanduser(), "the copy's folder").resolve()
    root = course_root().resolve()
    if folder == root or any(folder.is_relative_to(root / part) for part in ("notebooks", "assets")):
        raise CourseError(f"a copy cannot stand in the course's own folder {folder}; choose another one.")
    notebooks = {path.name: path for path in all_notebooks(root)}
    if not notebooks:
        raise CourseError(f"the course's notebooks are missing from {root / 'notebooks'}.")
    pages = {path.name: path for path in sorted((root / "notebooks").glob("*.md"))}
    if reset is not None:
        reset = _notebook_named(reset, [*notebooks, *pages])
    contents: dict[str, bytes] = {}  # path in the copy -> what the course would write there now
    try:
        for name, path in notebooks.items():
            contents[f"notebooks/{name}"] = path.read_bytes()
        for name, path in pages.items():
            contents[f"notebooks/{name}"] = path.read_bytes()
        for kind in PICTURES:
            for path in sorted((root / "assets" / kind).glob("*")):
                contents[f"assets/{kind}/{path.name}"] = path.read_bytes()
        for part in ("notebooks", "assets", *(f"assets/{kind}" for kind in PICTURES)):
            if (folder / part).is_symlink():
                raise CourseError(f"{folder / part} is a link, and a copy is not written through links; remove it.")
            (folder / part).mkdir(parents=True, exist_ok=True)
        return _copy(contents, folder, reset)
    except OSError as error:
        where = error.filename or folder
        raise CourseError(f"cannot write the copy into {folder}: {where}: {reason(error)}.") from error


def _copy(contents: dict[str, bytes], folder: Path, reset: str | None) -> CopyResult:
    """Brings a copy up to date with `contents`: path in the copy -> what the course would write there now."""
    result = CopyResult(folder)
    manifest = Manifest(folder, COPY)
    for path in manifest.paths():
        if "/" not in path:  # earlier versions remembered notebooks only, by their names
            manifest.rename(path, f"notebooks/{path}")
    for path, content in contents.items():
        name = path.removeprefix("notebooks/")
        fingerprint_of = _notebook_fingerprint if name.endswith(".ipynb") else digest
        latest = fingerprint_of(content)
        present = manifest.present(path, fingerprint_of)
        is_asked = name == reset
        if present == NOT_PLAIN:
            if is_asked:
                raise CourseError(f"{folder / path} is a link or no plain file, and is left alone; remove it first.")
            result.left_alone.append(name)
            continue
        if present == latest and not is_asked:
            manifest.note(path, latest)
            continue
        # The learner has changed what is neither what the course wrote last nor what it would write now.
        is_ours = manifest.knows(path, present) or (path not in manifest and present in _handed_out())
        changed = present not in (None, latest) and not is_ours
        if changed and not is_asked:
            result.kept.append(name)
            if not manifest.knows(path, latest):
                result.behind.append(name)
            continue
        if changed:
            result.saved_as = _save_under_date(folder / path)
        manifest.write(path, content, fingerprint_of)
        if present is None and name.endswith(".ipynb"):
            result.added.append(name)
        elif present is not None:
            result.updated.append(name)
    manifest.save()
    return result


def fingerprint(notebook: str) -> str:
    """A hash of what an author writes in a notebook: kinds and sources of its cells. Running it changes nothing."""
    try:
        cells = [[cell["cell_type"], "".join(cell["source"])] for cell in parse_json(notebook)["cells"]]
    except (ValueError, TypeError, KeyError):
        return hashlib.sha256(notebook.encode()).hexdigest()[:12]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()[:12]


def _notebook_fingerprint(content: bytes) -> str:
    return fingerprint(content.decode("utf-8", errors="replace"))


@lru_cache(maxsize=1)
def _handed_out() -> frozenset[str]:
    """Fingerprints of the pages and pictures that went into copies before copies remembered them."""
    return frozenset(read_json(Path(__file__).with_name("handed_out.json"), "list of what was handed out")["sha256"])


def _save_under_date(target: Path) -> str:
    """Renames a learner's notebook or page after today; returns the new name, which no file had."""
    stem = f"{target.stem}_{datetime.now():%Y-%m-%d}"
    path = target.with_name(f"{stem}{target.suffix}")
    number = 2
    while os.path.lexists(path):
        path = target.with_name(f"{stem}_{number}{target.suffix}")
        number += 1
    target.rename(path)
    return path.name


def _notebook_named(name: str, names: list[str]) -> str:
    """The notebook or page that the learner means: its file name, with or without its ending, or its label."""
    wanted = Path(name).name
    stems = {Path(known).stem: known for known in names}
    if found := named(Path(wanted).stem, list(stems)):
        return stems[found]
    return check_choice("notebook", wanted if Path(wanted).suffix else f"{wanted}.ipynb", names)


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
        """Where Jupyter keeps its connection files. The import waits: jupyter_core need not be there."""
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

"""A folder from which the course is installed where there is no network: `nl-course wheelhouse DIR`.

It holds wheels at the versions of constraints.txt: the course's own, all that the course, its tests and its corpora
stand on, and what builds the course's wheel, so that a checkout can be installed from it as well. pip collects them for
the Python and the system that it runs on, so the folder is made on a machine like those that will use it.
"""

import argparse
import importlib.util
import platform
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nl_course.errors import DONE, CourseError
from nl_course.files import check_folder, course_root, reason, write_atomically

PAGE = "README.txt"
PINS = "constraints.txt"
TITLE = "Wheels of the course Nested Learning, for machines without a network\n"
# An editable install of a checkout needs it besides the build backend, which asks for it only then.
FOR_EDITABLE = "editables"
UNFINISHED = "\nThis folder is not finished: call the command that made it again.\n"


@dataclass(frozen=True)
class Wheelhouse:
    """What a finished folder holds; printed, in a sentence and the line that installs from it."""

    folder: Path
    wheels: int
    nbytes: int

    def __str__(self) -> str:
        size = f"{self.wheels} wheels, {self.nbytes / 1e9:.2f} GB, for {machine()}"
        return f"{self.folder} holds {size}.\nOn each machine: {install_line(str(self.folder))}"


def machine() -> str:
    """The machines that the wheels are for, e.g. "Python 3.12 on Linux (x86_64)"."""
    major, minor = sys.version_info[:2]
    return f"Python {major}.{minor} on {platform.system()} ({platform.machine()})"


def install_line(folder: str, what: str = "nl-course") -> str:
    """The command that installs `what` from the folder alone."""
    if " " in folder:
        folder = f'"{folder}"'
    return f"pip install --no-index --find-links {folder} -c {folder}/{PINS} {what}"


def collect(folder: str | Path, torch_index: str | None = None) -> Wheelhouse:
    """Collects all wheels into `folder`, or brings a folder up to date that an earlier call made.

    `torch_index` is the address where pip shall find PyTorch. Raises CourseError for a folder that holds anything else,
    for a course that was installed as a wheel, where pip is missing, and if pip fails; its own words are on the screen.
    """
    root = course_root()
    if not all((root / name).is_file() for name in ("pyproject.toml", PINS)):
        raise CourseError("wheels are collected from a checkout of the course, which has the pins; this is none.")
    if importlib.util.find_spec("pip") is None:
        raise CourseError(f"this Python has no pip: {sys.executable} -m ensurepip brings it.")
    folder = check_folder(Path(folder).expanduser(), "the wheels' folder").resolve()
    try:
        check_ours(folder)
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / PAGE, TITLE + UNFINISHED)
        for command in commands(root, folder, torch_index):
            if subprocess.run(command, cwd=folder).returncode != 0:
                raise CourseError(
                    "pip could not collect the wheels, and says why above. What it has downloaded it need not "
                    "download again; call the same command once more."
                )
        write_atomically(folder / PINS, lambda temporary: shutil.copyfile(root / PINS, temporary))
        wheels = sorted(folder.glob("*.whl"))
        house = Wheelhouse(folder, len(wheels), sum(path.stat().st_size for path in wheels))
        _write(folder / PAGE, page(house))
    except OSError as error:
        raise CourseError(f"cannot collect wheels in {folder}: {error.filename or ''} {reason(error)}.") from error
    return house


def check_ours(folder: Path) -> None:
    """Raises CourseError if a folder holds anything that an earlier call did not write there."""
    if not folder.exists():
        return
    names = sorted(path.name for path in folder.iterdir())
    page_there = folder / PAGE
    is_ours = page_there.is_file() and page_there.read_text("utf-8", errors="replace").startswith(TITLE)
    for name in names:
        if not is_ours or not (name in (PAGE, PINS) or name.endswith(".whl")):
            raise CourseError(f"{folder} holds {name!r}, which is no part of a wheelhouse; give a folder of its own.")


def commands(root: Path, folder: Path, torch_index: str | None) -> Iterator[list[str]]:
    """pip's command lines: PyTorch from an index of its own, if one is named, then the course and all that it needs."""
    declared = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))
    extras = ",".join(sorted(declared["project"].get("optional-dependencies", {})))
    pip = [sys.executable, "-m", "pip", "wheel", "--wheel-dir", str(folder), "-c", str(root / PINS)]
    if torch_index is not None:
        # Only PyTorch itself: other packages may stand in that index at other versions than the pinned ones.
        yield [*pip, "--no-deps", "--index-url", torch_index, "torch"]
    course = f"{root}[{extras}]" if extras else str(root)
    yield [*pip, "--find-links", str(folder), course, *declared["build-system"]["requires"], FOR_EDITABLE]


def page(house: Wheelhouse) -> str:
    """The text of the folder's README.txt."""
    return f"""{TITLE}
{house.wheels} wheels, {house.nbytes / 1e9:.2f} GB. They are for {machine()}; other machines need a folder of their own.

Install the course into a new environment, with a terminal in this folder:

    python -m venv ENVIRONMENT
    ENVIRONMENT/bin/{install_line(".")}

On Windows it is ENVIRONMENT\\Scripts\\pip instead of ENVIRONMENT/bin/pip. Then `nl-course doctor` says whether all is
well, and `nl-course lab` opens the course as a copy in one's home folder.

With all tests and corpora, write "nl-course[data,test]" instead of nl-course. To install a checkout, so that changes to
its code take effect at once, stand in it and give this folder's path:

    {install_line("THIS_FOLDER", "-e .")}
"""


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def add_command(commands: argparse._SubParsersAction) -> None:
    """Adds `wheelhouse DIR` to the command line."""
    parser = commands.add_parser("wheelhouse", help="collect all that the course needs, to install without a network")
    parser.description = (
        "Downloads everything that constraints.txt pins into DIR, with the course's own wheel. Machines of the same\n"
        "system and Python then install from DIR alone; the README.txt in it says how."
    )
    parser.add_argument("folder", metavar="DIR", help="a new folder, or one that this command made earlier")
    parser.add_argument(
        "--torch-index", metavar="URL", help="where pip shall find PyTorch, e.g. an index of the smaller CPU builds"
    )
    parser.set_defaults(run=run_wheelhouse)


def run_wheelhouse(options: argparse.Namespace) -> int:
    """Collects the wheels and prints what there is now; returns the exit code."""
    print(f"Collecting wheels for {machine()}: 0.3 GB, and PyTorch: {torch_size()}.", flush=True)
    print(collect(options.folder, options.torch_index))
    return DONE


def torch_size() -> str:
    """How much PyTorch is to download here, in words."""
    if platform.system() == "Linux":
        return "2 to 3 GB with NVIDIA's libraries, 0.2 GB where pip finds a CPU build (see --torch-index)"
    return "0.1 GB"

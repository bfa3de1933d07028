"""`nl-course doctor`: is this machine ready, and what will be slow on it? In plain words, in well under a minute.

    from nl_course.app.doctor import doctor
    doctor()                                  # notebook 00 calls this; print(doctor()) does the same in a terminal

Each check is a function that returns what it found. A check that fails says what to do next; one that breaks is itself
a finding. `report.ok` is false if something must be fixed before the course can be used.
"""

import importlib.metadata
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nl_course.errors import CourseError
from nl_course.files import cache_folder, course_root

OLDEST_PYTHON = (3, 11)
SMALL_MEMORY = 4e9  # bytes; the core of the course runs in this much
SMALL_DISK = 1e9
# Bytes a second of the `tiny` preset, forward and backward, 8 rows of 256, that live trainings are planned for: one
# thread of an x86-64 server, torch 2.13.0, by its CPU time (13,161 on 2026-11-24). Two idle cores are faster.
# `python -m nl_course.app.doctor --speed` prints what this machine does.
PLANNED_SPEED = 13_000
SLOW = 0.5  # share of the planned speed below which live trainings are called slow
# What draws widgets in JupyterLab: package, its extension's folder, and the major version that goes with ipywidgets 8.
WIDGETS = (
    ("jupyterlab-widgets", "@jupyter-widgets/jupyterlab-manager", 3),
    ("anywidget", "anywidget", None),
    ("plotly", "jupyterlab-plotly", None),
)


@dataclass(frozen=True)
class Check:
    """One finding. `state`: "ok"; "slow" or "note", which can be lived with; "fix", which cannot, with a `remedy`."""

    name: str
    state: str
    text: str
    remedy: str = ""


@dataclass(frozen=True)
class Report:
    checks: list[Check]

    @property
    def ok(self) -> bool:
        """Nothing must be fixed."""
        return all(check.state != "fix" for check in self.checks)

    def __str__(self) -> str:
        signs = {"ok": "ok  ", "slow": "slow", "note": "note", "fix": "FIX "}
        lines = []
        for check in self.checks:
            lines.append(f"{signs[check.state]}  {check.name}: {check.text}")
            lines += [f"      -> {check.remedy}"] if check.remedy else []
        broken = sum(check.state == "fix" for check in self.checks)
        if broken:
            lines.append(f"\n{broken} thing{'s' * (broken > 1)} must be fixed first; each says how above.")
        else:
            lines.append("\nThis machine is ready for the course.")
        return "\n".join(lines)

    __repr__ = __str__


def doctor() -> Report:
    """Looks at everything that the course needs; the first time it reads the library, which takes some seconds."""
    found: list[Check] = []
    for check in (python, packages, processor, memory, disk, gpu, learning_step, widgets, kernel, library, course):
        try:
            found += check()
        except CourseError as error:
            found.append(Check(check.__name__.replace("_", " "), "fix", str(error)))
        except Exception as error:  # a broken installation can fail anywhere; the other findings still help
            text = f"could not be checked ({type(error).__name__}: {error})".splitlines()[0]
            found.append(Check(check.__name__.replace("_", " "), "fix", text, REINSTALL))
    return Report(found)


PIP = f"{sys.executable} -m pip install -c constraints.txt"
REINSTALL = f"run `make lab` again, or in the course's folder: {PIP} --force-reinstall -e ."


# -- versions -------------------------------------------------------------------------------------------------
def python() -> Iterator[Check]:
    version = platform.python_version()
    if sys.version_info[:2] < OLDEST_PYTHON:
        yield Check(
            "Python", "fix", f"{version} is too old", "install Python 3.11 or newer and make the environment anew"
        )
    else:
        yield Check("Python", "ok", f"{version} on {platform.system()} ({platform.machine()})")


def packages() -> Iterator[Check]:
    """Everything the course requires is there, new enough, and of the pinned version where there is a pin."""
    from packaging.requirements import Requirement

    pins = _pins()
    missing, old, other, shown = [], [], [], []
    for line in importlib.metadata.requires("nl-course") or []:
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        have = _version(wanted.name)
        pin = pins.get(_plain(wanted.name))
        if have is None:
            missing.append(wanted.name)
        elif not wanted.specifier.contains(have, prereleases=True):
            old.append(f"{wanted.name} {have} (needs {wanted.specifier})")
        elif pin is not None and have.split("+")[0] != pin:
            other.append(f"{wanted.name} {have} (tested with {pin})")
        if wanted.name in ("torch", "jupyterlab", "ipywidgets", "plotly", "anywidget") and have is not None:
            shown.append(f"{wanted.name} {have}")
    if missing:
        yield Check("packages", "fix", f"not installed: {', '.join(missing)}", f"{PIP} {' '.join(missing)}")
    if old:
        names = " ".join(entry.split()[0] for entry in old)
        yield Check("packages", "fix", f"of a version that does not fit: {', '.join(old)}", f"{PIP} --upgrade {names}")
    if other:
        yield Check(
            "packages",
            "note",
            f"other versions than the tested ones: {', '.join(other)}",
            "this mostly works; `make lab` makes an environment with the tested ones",
        )
    if not (missing or old or other):
        yield Check("packages", "ok", ", ".join(shown) + (", all as pinned" if pins else ""))


def _pins() -> dict[str, str]:
    """constraints.txt as name -> version; empty where the course was installed without it."""
    path = course_root() / "constraints.txt"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    pairs = [line.split(";")[0].split("#")[0].strip().split("==") for line in lines if "==" in line]
    return {_plain(name): version.strip() for name, version in pairs}


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", "-")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


# -- the machine ----------------------------------------------------------------------------------------------
def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> Iterator[Check]:
    import torch

    text = f"{cores()} core{'s' * (cores() > 1)}, {torch.get_num_threads()} used by torch"
    yield Check(
        "processor", "ok" if cores() > 1 else "slow", text + ("" if cores() > 1 else "; the course is planned for 2")
    )


def memory() -> Iterator[Check]:
    import psutil

    found = psutil.virtual_memory()
    text = f"{found.total / 1e9:.1f} GB, {found.available / 1e9:.1f} GB free"
    if found.total < SMALL_MEMORY:
        remedy = "do the cells marked core, use the recorded runs, and keep one notebook open at a time"
        yield Check("memory", "slow", f"{text}; under 4 GB is tight", remedy)
    elif found.available < SMALL_MEMORY / 4:
        yield Check("memory", "note", text, "close other programs before a long training")
    else:
        yield Check("memory", "ok", text)


def disk() -> Iterator[Check]:
    try:
        folder = cache_folder()
        probe = folder / ".doctor"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        remedy = "set NL_COURSE_CACHE to a folder that can be written; until then the library is read anew every time"
        yield Check("disk", "note", f"the cache folder cannot be written ({error.strerror or error})", remedy)
        return
    free = shutil.disk_usage(folder).free
    few = free < SMALL_DISK
    remedy = "make room: checkpoints and the cache need about 1 GB" if few else ""
    yield Check("disk", "slow" if few else "ok", f"{free / 1e9:.0f} GB free for the cache in {folder}", remedy)


def gpu() -> Iterator[Check]:
    import torch

    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        text = f"{torch.cuda.device_count()} x {properties.name}, {properties.total_memory / 1e9:.0f} GB"
        yield Check("GPU", "ok", f"{text}, bf16 {'yes' if torch.cuda.is_bf16_supported() else 'no'}")
    elif torch.backends.mps.is_available():
        yield Check("GPU", "ok", "Apple's (mps); the course uses the processor, which is as fast at its sizes")
    else:
        yield Check("GPU", "ok", "none, and none is needed: every notebook is made for the processor")


# -- speed ----------------------------------------------------------------------------------------------------
def step_seconds(rows: int = 8, length: int = 256, repeats: int = 3) -> tuple[float, float]:
    """Seconds of the fastest forward and backward pass of the `tiny` preset, and the loss of its random weights."""
    import torch

    from nl_course.model import LanguageModel
    from nl_course.presets import preset
    from nl_course.training import token_losses

    with torch.random.fork_rng():  # the caller's random numbers go on as if nothing had happened
        torch.manual_seed(0)
        model = LanguageModel(preset("tiny"))
        tokens = torch.randint(256, (rows, length + 1))
    fastest, loss = float("inf"), float("nan")
    for _ in range(repeats):
        start = time.perf_counter()
        mean = token_losses(model, tokens[:, :-1], tokens[:, 1:]).mean()
        mean.backward()
        fastest, loss = min(fastest, time.perf_counter() - start), float(mean.detach())
    return fastest, loss


def learning_step() -> Iterator[Check]:
    """One forward and backward pass of the small model: that it works, and how fast."""
    seconds, loss = step_seconds()
    if not 5.0 < loss < 6.5:  # random weights cannot know more, or less, than ln 256 = 5.5 nats
        yield Check("learning step", "fix", f"the small model's loss is {loss:.2f}, not about 5.5", REINSTALL)
        return
    speed = 8 * 256 / seconds
    text = (
        f"forward and backward of the small model on 2,048 bytes: {seconds * 1e3:.0f} ms, {speed:,.0f} bytes a second"
    )
    if speed < SLOW * PLANNED_SPEED:
        text += f"; live trainings will take about {PLANNED_SPEED / speed:.0f} times as long as the notebooks say"
        yield Check(
            "learning step", "slow", text, "set USE_RECORDED = True in a notebook to show the recorded run instead"
        )
    else:
        yield Check("learning step", "ok", text)


# -- the notebooks --------------------------------------------------------------------------------------------
def widgets() -> Iterator[Check]:
    """Whether JupyterLab will draw the views: packages, their front-end halves, and that neither is turned off."""
    wrong = []
    remedies = []
    ours = _version("ipywidgets")
    if ours is None or int(ours.split(".")[0]) < 8:
        wrong.append(f"ipywidgets is {ours or 'missing'}, 8 or newer is needed")
        remedies.append("ipywidgets")
    folders = _extension_folders()
    disabled = _disabled_extensions()
    for package, extension, major in WIDGETS:
        version = _version(package)
        if version is None:
            wrong.append(f"{package} is not installed")
        elif major is not None and int(version.split(".")[0]) != major:
            wrong.append(f"{package} is {version}, {major}.x goes with ipywidgets 8")
        elif not any((folder / extension / "package.json").is_file() for folder in folders):
            wrong.append(f"JupyterLab does not find the extension {extension}")
        elif extension in disabled:
            wrong.append(f"the extension {extension} is turned off")
            yield Check("widgets", "fix", wrong.pop(), f"jupyter labextension enable {extension}")
            continue
        else:
            continue
        remedies.append(package)
    if wrong:
        remedy = f"{PIP} --force-reinstall --no-deps {' '.join(remedies)}, then restart JupyterLab"
        yield Check("widgets", "fix", "; ".join(wrong), remedy)
    elif not any(extension in disabled for _, extension, _ in WIDGETS):
        yield Check("widgets", "ok", f"will show in JupyterLab {_version('jupyterlab')} (ipywidgets {ours})")


def _extension_folders() -> list[Path]:
    from jupyter_core.paths import jupyter_path

    return [Path(folder) for folder in jupyter_path("labextensions")]


def _disabled_extensions() -> set[str]:
    from jupyter_core.paths import jupyter_config_path

    found: set[str] = set()
    for folder in jupyter_config_path():
        try:
            page = json.loads((Path(folder) / "labconfig" / "page_config.json").read_text(encoding="utf-8"))
            listed = page.get("disabledExtensions", {})
        except (OSError, ValueError, AttributeError):
            continue
        found |= {name for name, off in listed.items() if off} if isinstance(listed, dict) else set(listed)
    return found


def kernel() -> Iterator[Check]:
    """The kernel `python3`, which every notebook asks for, runs this very Python."""
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    again = f"{sys.executable} -m ipykernel install --sys-prefix"
    try:
        spec = KernelSpecManager().get_kernel_spec("python3")
    except NoSuchKernel:
        yield Check("kernel", "fix", "there is no kernel named python3, which the notebooks ask for", again)
        return
    program = spec.argv[0] if spec.argv else ""
    own = Path(program).name.startswith("python") and not os.path.dirname(program)  # jupyter puts its own in its place
    if own or _same_environment(program):
        yield Check("kernel", "ok", f"python3 runs {sys.executable}")
    else:
        text = f"the kernel python3 in {spec.resource_dir} runs another Python, {program}"
        yield Check("kernel", "fix", text, "jupyter kernelspec remove python3, then " + again)


def _same_environment(program: str) -> bool:
    path = Path(program)
    return path.exists() and (path.parent == Path(sys.executable).parent or path.samefile(sys.executable))


def library() -> Iterator[Check]:
    """The default texts are the recorded ones."""
    import warnings

    from nl_course.tasks import text

    for corpus in text.CORPORA:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", text.LibraryWarning)
            found = text.library(corpus)
        size = (found.nbytes() + found.nbytes("held_out")) / 1e6
        if found.differences:
            yield Check(f"library, {corpus}", "note", " ".join(found.differences))
        else:
            yield Check(f"library, {corpus}", "ok", f"{size:.1f} MB, the very bytes of the course's recordings")


def course() -> Iterator[Check]:
    """Notebooks and assets are where they belong."""
    root = course_root()
    notebooks = len(list((root / "notebooks").glob("*.ipynb")))
    if not notebooks or not (root / "assets").is_dir():
        yield Check("course", "fix", f"the notebooks or assets are missing from {root}", "get the course anew, whole")
    else:
        yield Check("course", "ok", f"{notebooks} notebook{'s' * (notebooks != 1)} in {root / 'notebooks'}")


def main(arguments: list[str] | None = None, check: Callable[[], Report] = doctor) -> int:
    """Prints the report; 0 if nothing must be fixed. `--speed` prints the measured speed alone."""
    if arguments and "--speed" in arguments:
        print(f"{8 * 256 / step_seconds(repeats=20)[0]:,.0f} bytes a second")
        return 0
    report = check()
    print(report)
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

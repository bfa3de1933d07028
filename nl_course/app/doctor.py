"""`nl-course doctor`: is this machine ready, and what will be slow on it? In plain words, in well under a minute.

    from nl_course.app.doctor import doctor
    doctor()                                  # notebook 00 calls this; print(doctor()) does the same in a terminal

Each check is a function that yields its findings. A finding that something is wrong also says what to do next, and a
check that breaks is itself a finding. `diagnosis.ok` is false if something must be fixed before the course can be used.
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

from nl_course.errors import DONE, FOUND, CourseError
from nl_course.files import cache_folder, check_writable, course_root, pip_install, reason
from nl_course.notebooks import all_notebooks

OLDEST_PYTHON = (3, 11)
SMALL_MEMORY = 4e9  # bytes; the core of the course runs in this much
SMALL_DISK = 1e9  # bytes
# What live trainings are planned for, in bytes per second: the `tiny` preset, forward and backward, 8 rows of 256, on
# one thread of an x86-64 server, torch 2.13.0, by its CPU time (13,161 on 2026-11-24). Two idle cores are faster.
# `python -m nl_course.app.doctor --speed` prints the speed of this machine.
PLANNED_SPEED = 13_000
SLOW = 0.5  # share of the planned speed below which live trainings are called slow
# What draws widgets in JupyterLab: package, its extension's folder, and the major version that goes with ipywidgets 8.
WIDGETS = (
    ("jupyterlab-widgets", "@jupyter-widgets/jupyterlab-manager", 3),
    ("anywidget", "anywidget", None),
    ("plotly", "jupyterlab-plotly", None),
)
SHOWN_PACKAGES = ("torch", "jupyterlab", "ipywidgets", "plotly", "anywidget")  # whose versions the diagnosis prints


@dataclass(frozen=True)
class Check:
    """One finding. `state` is "ok"; "slow" or "note", with which one can work; or "fix", with which one cannot, and
    which has a `remedy`."""

    name: str
    state: str
    text: str
    remedy: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """All findings; printed, a line or two for each."""

    checks: list[Check]

    @property
    def ok(self) -> bool:
        """Whether nothing must be fixed."""
        return all(check.state != "fix" for check in self.checks)

    def __str__(self) -> str:
        signs = {"ok": "ok  ", "slow": "slow", "note": "note", "fix": "FIX "}
        lines = []
        for check in self.checks:
            lines.append(f"{signs[check.state]}  {check.name}: {check.text}")
            if check.remedy:
                lines.append(f"      -> {check.remedy}")
        broken = sum(check.state == "fix" for check in self.checks)
        if broken:
            lines.append(f"\n{broken} thing{'s' * (broken > 1)} must be fixed first; see above for how.")
        else:
            lines.append("\nThis machine is ready for the course.")
        return "\n".join(lines)

    __repr__ = __str__


def doctor() -> Diagnosis:
    """Checks everything that the course needs. The first time it also reads the library, which takes some seconds."""
    findings: list[Check] = []
    for check in (
        python,
        packages,
        processor,
        memory,
        disk,
        folders,
        gpu,
        learning_step,
        widgets,
        kernel,
        library,
        course,
    ):
        name = check.__name__.replace("_", " ")
        try:
            findings += check()
        except CourseError as error:
            findings.append(Check(name, "fix", str(error)))
        except Exception as error:  # a broken installation can fail anywhere; the other findings still help
            text = f"could not be checked ({type(error).__name__}: {error})".splitlines()[0]
            findings.append(Check(name, "fix", text, reinstall()))
    return Diagnosis(findings)


def reinstall() -> str:
    """What to do where the installation itself is broken: in a checkout, or where a wheel was installed."""
    folder = course_root()
    if (folder / "pyproject.toml").is_file():
        return f"run `make lab` again, or: {pip_install('--force-reinstall', '-e', str(folder))}"
    return f"install the course's wheel again: {pip_install('--force-reinstall')} WHEEL"


# -- versions -------------------------------------------------------------------------------------------------
def python() -> Iterator[Check]:
    """Python is new enough."""
    version = platform.python_version()
    if sys.version_info[:2] < OLDEST_PYTHON:
        remedy = "install Python 3.11 or newer and make the environment again"
        yield Check("Python", "fix", f"{version} is too old", remedy)
    else:
        yield Check("Python", "ok", f"{version} on {platform.system()} ({platform.machine()})")


def packages() -> Iterator[Check]:
    """Everything that the course requires is there, new enough, and of the pinned version where there is a pin."""
    from packaging.requirements import Requirement

    pins = _pins()
    missing, old, unpinned, shown = [], [], [], []
    for line in importlib.metadata.requires("nl-course") or []:
        requirement = Requirement(line)
        # Requirements of the extras (tests, data) are none of a learner's.
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        name = requirement.name
        installed = _version(name)
        pin = pins.get(_normalized(name))
        if installed is None:
            missing.append(name)
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            old.append(f"{name} {installed} (needs {requirement.specifier})")
        elif pin is not None and installed.split("+")[0] != pin:  # "2.13.0+cpu" is 2.13.0 for another device
            unpinned.append(f"{name} {installed} (tested with {pin})")
        if name in SHOWN_PACKAGES:
            shown.append(f"{name} {installed}")
    if missing:
        yield Check("packages", "fix", f"not installed: {', '.join(missing)}", pip_install(*missing))
    if old:
        names = [entry.split()[0] for entry in old]
        yield Check(
            "packages", "fix", f"of a version that does not fit: {', '.join(old)}", pip_install("--upgrade", *names)
        )
    if unpinned:
        text = f"other versions than the tested ones: {', '.join(unpinned)}"
        remedy = "this mostly works; `make lab` makes an environment with the tested ones"
        yield Check("packages", "note", text, remedy)
    if not (missing or old or unpinned):
        yield Check("packages", "ok", ", ".join(shown) + (", all as pinned" if pins else ""))


def _pins() -> dict[str, str]:
    """constraints.txt as name -> version; empty where the course was installed without it."""
    path = course_root() / "constraints.txt"
    if not path.is_file():
        return {}
    pins = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        requirement = line.split(";")[0].split("#")[0].strip()  # without markers and comments
        if "==" in requirement:
            name, version = requirement.split("==")
            pins[_normalized(name)] = version.strip()
    return pins


def _normalized(name: str) -> str:
    """A package's name as it is compared: pip takes `_` and `-`, and either case, for the same."""
    return name.strip().lower().replace("_", "-")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


# -- the machine ----------------------------------------------------------------------------------------------
def cores() -> int:
    """Cores that this process may use; a container may have fewer than its machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> Iterator[Check]:
    """There are two cores, for which the course is planned."""
    import torch

    count = cores()
    text = f"{count} core{'s' * (count > 1)}, {torch.get_num_threads()} used by torch"
    if count > 1:
        yield Check("processor", "ok", text)
    else:
        yield Check("processor", "slow", f"{text}; the course is planned for 2")


def memory() -> Iterator[Check]:
    """There is enough memory, and enough of it is free."""
    import psutil

    ram = psutil.virtual_memory()
    text = f"{ram.total / 1e9:.1f} GB, {ram.available / 1e9:.1f} GB free"
    if ram.total < SMALL_MEMORY:
        remedy = "do the cells marked core, use the recorded runs, and keep one notebook open at a time"
        yield Check("memory", "slow", f"{text}; under 4 GB is tight", remedy)
    elif ram.available < SMALL_MEMORY / 4:
        yield Check("memory", "note", text, "close other programs before a long training")
    else:
        yield Check("memory", "ok", text)


def disk() -> Iterator[Check]:
    """There is room for what the course keeps."""
    try:
        folder = cache_folder()
    except OSError:
        return  # `folders` says so, and why
    free = shutil.disk_usage(folder).free
    text = f"{free / 1e9:.0f} GB free for the cache in {folder}"
    if free < SMALL_DISK:
        yield Check("disk", "slow", text, "make room: checkpoints and the cache need about 1 GB")
    else:
        yield Check("disk", "ok", text)


def folders() -> Iterator[Check]:
    """What `nl-course lab` must write can be written: a file is written there, to see."""
    from nl_course.app.lab import needed_folders, own_copy

    written = []
    for needed in needed_folders():
        try:
            written.append(str(check_writable(needed.find())))
        except OSError as error:
            text = f"{needed.what} cannot be written ({reason(error)}); `nl-course lab` would not start"
            yield Check("folders", "fix", text, needed.remedy)
    if written:
        yield Check("folders", "ok", f"JupyterLab can write into {' and '.join(written)}")
    try:
        copy = own_copy()
        check_writable(copy if copy.exists() else copy.parent)
    except (CourseError, OSError) as error:
        text = f"there is no place for your copy of the course ({reason(error)})"
        yield Check("folders", "note", text, "name one: nl-course lab --copy DIR")


def gpu() -> Iterator[Check]:
    """Which GPU there is; none is needed."""
    import torch

    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        bf16 = "yes" if torch.cuda.is_bf16_supported() else "no"
        size = f"{properties.total_memory / 1e9:.0f} GB"
        yield Check("GPU", "ok", f"{torch.cuda.device_count()} x {properties.name}, {size}, bf16 {bf16}")
    elif torch.backends.mps.is_available():
        yield Check("GPU", "ok", "Apple's (mps); the course uses the processor, which is as fast at its sizes")
    else:
        yield Check("GPU", "ok", "none, and none is needed: every notebook is made for the processor")


# -- speed ----------------------------------------------------------------------------------------------------
def step_seconds(rows: int = 8, length: int = 256, repeats: int = 3) -> tuple[float, float]:
    """Seconds of the fastest forward and backward pass of the `tiny` preset on so many rows of so many bytes, and the
    loss of its random weights in nats per byte."""
    import torch

    from nl_course.model import LanguageModel
    from nl_course.presets import preset
    from nl_course.seeding import seeded
    from nl_course.training import token_losses

    with seeded(0):
        model = LanguageModel(preset("tiny"))
        tokens = torch.randint(256, (rows, length + 1))  # (b, t + 1)
    # The fastest: whatever else the machine does can only make a pass slower.
    fastest = float("inf")
    loss = float("nan")
    for _ in range(repeats):
        start = time.perf_counter()
        mean = token_losses(model, tokens[:, :-1], tokens[:, 1:]).mean()
        mean.backward()
        fastest = min(fastest, time.perf_counter() - start)
        loss = float(mean.detach())
    return fastest, loss


def learning_step() -> Iterator[Check]:
    """One forward and backward pass of the small model works, and how fast."""
    seconds, loss = step_seconds()
    if not 5.0 < loss < 6.5:  # random weights cannot know more, or less, than ln 256 = 5.5 nats
        yield Check("learning step", "fix", f"the small model's loss is {loss:.2f}, not about 5.5", reinstall())
        return
    speed = 8 * 256 / seconds
    text = (
        f"forward and backward of the small model on 2,048 bytes: {seconds * 1e3:.0f} ms, {speed:,.0f} bytes per second"
    )
    if speed < SLOW * PLANNED_SPEED:
        text += f"; live trainings will take about {PLANNED_SPEED / speed:.0f} times as long as the notebooks say"
        remedy = "set USE_RECORDED = True in a notebook to show the recorded run instead"
        yield Check("learning step", "slow", text, remedy)
    else:
        yield Check("learning step", "ok", text)


# -- the notebooks --------------------------------------------------------------------------------------------
def widgets() -> Iterator[Check]:
    """Whether JupyterLab will draw the views: packages, their front-end halves, and that neither is turned off."""
    wrong = []
    to_reinstall = []
    ipywidgets = _version("ipywidgets")
    if ipywidgets is None or int(ipywidgets.split(".")[0]) < 8:
        wrong.append(f"ipywidgets is {ipywidgets or 'missing'}, 8 or newer is needed")
        to_reinstall.append("ipywidgets")
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
            # Reinstalling would not help here, so this is a finding of its own.
            remedy = f"jupyter labextension enable {extension}"
            yield Check("widgets", "fix", f"the extension {extension} is turned off", remedy)
            continue
        else:
            continue
        to_reinstall.append(package)
    if wrong:
        remedy = f"{pip_install('--force-reinstall', '--no-deps', *to_reinstall)}, then restart JupyterLab"
        yield Check("widgets", "fix", "; ".join(wrong), remedy)
    elif not any(extension in disabled for _, extension, _ in WIDGETS):
        yield Check("widgets", "ok", f"will show in JupyterLab {_version('jupyterlab')} (ipywidgets {ipywidgets})")


def _extension_folders() -> list[Path]:
    from jupyter_core.paths import jupyter_path

    return [Path(folder) for folder in jupyter_path("labextensions")]


def _disabled_extensions() -> set[str]:
    """The extensions that a learner, or the machine's owner, has turned off in JupyterLab's settings."""
    from jupyter_core.paths import jupyter_config_path

    disabled: set[str] = set()
    for folder in jupyter_config_path():
        path = Path(folder) / "labconfig" / "page_config.json"
        try:
            listed = json.loads(path.read_text(encoding="utf-8")).get("disabledExtensions", {})
        except (OSError, ValueError, AttributeError):
            continue  # no such file, or one that JupyterLab cannot read either
        # JupyterLab writes name -> whether it is off; people also write a list of names.
        if isinstance(listed, dict):
            disabled |= {name for name, off in listed.items() if off}
        else:
            disabled |= set(listed)
    return disabled


def kernel() -> Iterator[Check]:
    """The kernel `python3`, which every notebook asks for, runs this very Python."""
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    install = f"{sys.executable} -m ipykernel install --sys-prefix"
    try:
        spec = KernelSpecManager().get_kernel_spec("python3")
    except NoSuchKernel:
        yield Check("kernel", "fix", "there is no kernel named python3, which the notebooks ask for", install)
        return
    program = spec.argv[0] if spec.argv else ""
    # A bare "python" has no folder: Jupyter puts its own Python in its place.
    is_jupyters_own = Path(program).name.startswith("python") and not os.path.dirname(program)
    if is_jupyters_own or _same_environment(program):
        yield Check("kernel", "ok", f"python3 runs {sys.executable}")
    else:
        text = f"the kernel python3 in {spec.resource_dir} runs another Python, {program}"
        yield Check("kernel", "fix", text, f"jupyter kernelspec remove python3, then {install}")


def _same_environment(program: str) -> bool:
    path = Path(program)
    return path.exists() and (path.parent == Path(sys.executable).parent or path.samefile(sys.executable))


def library() -> Iterator[Check]:
    """The texts of the library are those that the course's recordings were made with."""
    import warnings

    from nl_course.tasks import text

    for corpus in text.CORPORA:
        with warnings.catch_warnings():
            # The same difference is a finding below.
            warnings.simplefilter("ignore", text.LibraryWarning)
            texts = text.library(corpus)
        size = (texts.nbytes() + texts.nbytes("held_out")) / 1e6
        if texts.differences:
            yield Check(f"library, {corpus}", "note", " ".join(texts.differences))
        else:
            yield Check(f"library, {corpus}", "ok", f"{size:.1f} MB, byte for byte the text of the course's recordings")


def course() -> Iterator[Check]:
    """Notebooks and assets are where they belong."""
    root = course_root()
    notebooks = len(all_notebooks(root))
    if not notebooks or not (root / "assets").is_dir():
        text = f"the notebooks or assets are missing from {root}"
        yield Check("course", "fix", text, "download the course again, all of it")
    else:
        yield Check("course", "ok", f"{notebooks} notebook{'s' * (notebooks != 1)} in {root / 'notebooks'}")


def main(arguments: list[str] | None = None, check: Callable[[], Diagnosis] = doctor) -> int:
    """Prints the diagnosis; returns 0 if nothing must be fixed, else 1. `--speed` prints the measured speed alone."""
    if arguments and "--speed" in arguments:
        print(f"{8 * 256 / step_seconds(repeats=20)[0]:,.0f} bytes per second")
        return DONE
    diagnosis = check()
    print(diagnosis)
    return DONE if diagnosis.ok else FOUND


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

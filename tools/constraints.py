"""Writes constraints.txt: the versions, in this environment, of all that the course and its tests stand on.

    python -m tools.constraints            (after installing what you mean to pin; then `make test`)

torch comes first because it is installed first. What torch's Linux wheel pins by itself (CUDA, Triton) is left out,
and what only other platforms need is added, so that one file serves them all.
"""

import importlib.metadata as metadata
import importlib.util
import tomllib

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools.run_notebooks import ROOT

ELSEWHERE = {  # needed on macOS or Windows only, so never installed where this file is written on Linux
    "appnope": "0.1.4",
    "colorama": "0.4.6",
    "pywinpty": "3.1.2",
}
OWN_PINS = ("nvidia-", "cuda-", "triton")  # torch's wheel for Linux names their versions itself
HEAD = """\
# Every version that the course was tested with. Written by `python -m tools.constraints`; do not edit by hand.
# Used as: pip install torch -c constraints.txt && pip install -e '.[test]' -c constraints.txt
"""


def wanted() -> list[Requirement]:
    """What pyproject.toml asks for, tests included; the other extras where they are installed, as they are in CI."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    data = extras["data"] if has_data() else []
    tensorboard = extras["tensorboard"] if has_tensorboard() else []
    return [Requirement(r) for r in (*project["dependencies"], *extras["test"], *data, *tensorboard)]


def has_data() -> bool:
    """Whether the extra `data` is installed here: the pins can only be written where it is."""
    return all(importlib.util.find_spec(name) is not None for name in ("datasets", "tokenizers"))


def has_tensorboard() -> bool:
    """The same of the extra `tensorboard`."""
    return importlib.util.find_spec("tensorboard") is not None


def installed(requirements: list[Requirement]) -> dict[str, str]:
    """Name -> version of the requirements and all that they require in turn, as installed here."""
    found, seen, queue = {}, set(), list(requirements)
    while queue:
        requirement = queue.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        package = metadata.distribution(requirement.name)
        found[name] = package.version.split("+")[0]  # 2.13.0+cpu is 2.13.0 elsewhere
        for needed in map(Requirement, package.requires or []):
            if needed.name.startswith(OWN_PINS):
                continue
            if needed.marker is None or any(needed.marker.evaluate({"extra": e}) for e in ("", *extras)):
                queue.append(needed)
    return found


def text() -> str:
    """The file as it should stand for this environment."""
    if not (has_data() and has_tensorboard()):
        raise SystemExit(
            "The pins cover all extras: pip install -e '.[test,data,tensorboard]' -c constraints.txt first."
        )
    pins = {**ELSEWHERE, **installed(wanted())}
    torch = pins.pop("torch")
    lines = [f"torch=={torch}", *(f"{name}=={version}" for name, version in sorted(pins.items()))]
    return HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    (ROOT / "constraints.txt").write_text(text(), "utf-8")

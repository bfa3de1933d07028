"""Whether a checkpoint belongs to the run that goes on from it. What does not is refused before anything changes.

A folder's files can be mixed up by hand: a checkpoint copied from another run, metrics of another one. Each file is
whole then, and its checksums are right, so the files are compared with each other.
"""

import json
import warnings
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from nl_course.errors import CourseError
from nl_course.files import read_json
from nl_course.renamed import translate

HASHES = (
    "text_hash",
    "data_hash",
    "tokenizer_hash",
    "held_out_hash",
    "memory_hash",
)  # settings that stand for the contents of files


def check_settings(folder: Path, progress: dict[str, Any], settings: dict[str, Any], may_change: Sequence[str]) -> None:
    """Raises CourseError if the saved run had other settings than `settings`, but for those in `may_change`."""
    saved = progress.get("asked")
    if not isinstance(saved, dict):
        raise CourseError(f"the checkpoint in {folder} does not say with which settings its run was started.")
    for name, value in settings.items():
        # Through JSON and back, as the saved value went: a tuple comes back as a list.
        as_saved = json.loads(json.dumps(value))
        if name in may_change or saved.get(name) == as_saved:
            continue
        if name in HASHES and name not in saved:
            warnings.warn(
                f"the run in {folder} is from a version of the course that kept no {name}: a change of its data would "
                "not be noticed. The next checkpoint has one.",
                stacklevel=2,
            )
        elif name in HASHES:
            what = name.removesuffix("_hash").replace("held_out", "held-out text")
            raise CourseError(
                f"the {what} of the run in {folder} has changed since it was started ({name} is {value}, and was "
                f"{saved[name]}); put the {what} back as it was, or start another folder."
            )
        else:
            raise CourseError(
                f"the run in {folder} was started with {name} = {saved.get(name)}, not {value}; "
                "resume it with what it was started with, or start another folder."
            )


def check_one_run(
    folder: Path, progress: dict[str, Any], may_change: Sequence[str], metrics: list[dict[str, Any]], trust: bool
) -> None:
    """Raises CourseError unless a checkpoint, whose settings were checked, is of the run whose run.json and metrics
    stand beside it. `trust` allows that lines of the metrics are missing."""
    settings = progress["asked"]
    _check_step(folder, progress, settings)
    _check_run_file(folder, settings, may_change)
    step = progress["step"]
    log_every = settings.get("log_every")  # may differ from what the present session asks for
    if type(log_every) is not int or log_every < 1:
        raise CourseError(f"the checkpoint in {folder} is damaged: its log_every is {log_every!r:.50}.")
    unwritten = progress.get("unwritten", [])  # lines for which there was no room on the disk
    if not isinstance(unwritten, list) or not all(isinstance(line, dict) and "step" in line for line in unwritten):
        raise CourseError(f"the checkpoint in {folder} is damaged: its lines of metrics are none.")
    lines = [*metrics, *unwritten]
    due = step > 0 and (step % log_every == 0 or step == settings["steps"])
    if due and not trust and not any(line["step"] == step for line in lines):
        raise CourseError(
            f"the checkpoint in {folder} is of step {step}, and metrics.jsonl has no line of that step: they are not "
            "of one run, or lines were lost. Put back the metrics.jsonl that belongs to it, or go on without its lines "
            "with --trust (trust=True in Python)."
        )


def step_of(folder: Path, progress: dict[str, Any]) -> int:
    """The step of a checkpoint. Raises CourseError if it has none."""
    step = progress.get("step")
    if type(step) is not int or step < 0:
        raise CourseError(f"the checkpoint in {folder} cannot be of step {step!r:.50}.")
    return step


def _check_step(folder: Path, progress: dict[str, Any], settings: dict[str, Any]) -> None:
    """Raises CourseError for a step, or numbers beside it, that this run cannot have reached."""
    step = step_of(folder, progress)
    most = settings["steps"]
    if step > most:
        raise CourseError(f"the checkpoint in {folder} cannot be of step {step}: its run has {most} steps.")
    tokens = progress.get("tokens")
    seconds = progress.get("seconds")
    if type(tokens) is not int or tokens < 0:
        raise CourseError(f"the checkpoint in {folder} cannot have read {tokens!r:.50} tokens.")
    # A stream gives every step the same number of tokens; a function may give what it likes.
    if "text_hash" in settings and tokens != step * settings["batch_size"] * settings["length"]:
        raise CourseError(f"the checkpoint in {folder} cannot have read {tokens} tokens in {step} steps.")
    if type(seconds) not in (int, float) or not isfinite(seconds) or seconds < 0:
        raise CourseError(f"the checkpoint in {folder} cannot have taken {seconds!r:.50} seconds.")


def _check_run_file(folder: Path, settings: dict[str, Any], may_change: Sequence[str]) -> None:
    """Raises CourseError if run.json has other settings than the checkpoint."""
    path = folder / "run.json"
    if not path.exists():  # it says nothing that the checkpoint does not say
        return
    try:
        about = read_json(path, "run's settings")
        asked = about.get("asked") if isinstance(about, dict) else None
        if not isinstance(asked, dict):
            raise CourseError(f"the run's settings {path} are damaged: they do not say what was asked for.")
    except CourseError as error:
        raise CourseError(f"{error} Remove that file to go on with the settings in the checkpoint.") from error
    _, asked = translate("TrainingConfig", asked)
    for name in sorted(asked.keys() | settings.keys()):
        if name not in may_change and asked.get(name) != settings.get(name):
            raise CourseError(
                f"the checkpoint in {folder} is of another run: {name} is {settings.get(name)!r:.80} there and "
                f"{asked.get(name)!r:.80} in run.json; put the run's own checkpoint back, or start another folder."
            )

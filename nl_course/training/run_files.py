"""Which files in a folder are a run's own. A run replaces and removes these, and never anything else.

A file is known by its name, by what is in it, and by being an ordinary file: a run never writes through a link. What a
crash has damaged cannot show what it was; it counts as the run's own where `run.json` beside it is a run's.
"""

import re
import stat
import warnings
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError, safe_open

from nl_course.errors import CourseError
from nl_course.files import parse_json, remove_leftovers

ABOUT = "run.json"
METRICS = "metrics.jsonl"
CHECKPOINT = "checkpoint.safetensors"
MODEL = "model.safetensors"
SHARDED = "sharded.json"
LENGTHS = "lengths.json"  # the held-out loss at several context lengths
POSITIONS = "positions.jsonl"  # where documents begin in a corpus; the corpus itself knows its own file (packed.py)
_MEASURED = {"step", "loss", "learning_rate", "grad_norm", "tokens"}  # in each line of METRICS
_BEGINNING = b'{"step": '  # of each line of METRICS


def check_files(folder: Path) -> None:
    """Raises CourseError, naming the file, if a run in `folder` would replace a file that no run has written."""
    is_run = _holds_json(folder / ABOUT, ("asked", "model"))
    for name in (ABOUT, METRICS, CHECKPOINT, MODEL, SHARDED, LENGTHS, POSITIONS):
        path = folder / name
        try:
            mode = path.lstat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise CourseError(f"cannot look at {path}: {error.strerror or error}.") from error
        if stat.S_ISLNK(mode):
            raise CourseError(f"{path} is a link, and a run never writes through one; take another folder.")
        if not stat.S_ISREG(mode) or not _is_own(path, is_run):
            raise CourseError(
                f"{path} is not a file of the course's runs, and a run would replace it; take another folder, or move "
                "it away."
            )


def keep_aside(folder: Path) -> None:
    """Moves the curve of a run that ended before its first checkpoint into a folder of its own, where `nl-course runs`
    finds it, and says so in a warning. Does nothing if there is no curve."""
    if not (folder / METRICS).is_file() or not (folder / METRICS).stat().st_size:
        return
    number = 1
    while (folder / f"unfinished-{number}").exists():
        number += 1
    aside = folder / f"unfinished-{number}"
    aside.mkdir()
    for name in (METRICS, ABOUT):
        if (folder / name).exists():
            (folder / name).rename(aside / name)
    warnings.warn(f"the run in {folder} ended before its first checkpoint; its curve is now in {aside}.", stacklevel=2)


def remove_sharded(folder: Path) -> None:
    """Removes a run's sharded checkpoint: sharded.json, and of the folders sharded-NNNNNNNN the files that a run wrote.
    A folder goes if nothing else is in it."""
    if _holds_json(folder / SHARDED, ("folder", "progress")):
        (folder / SHARDED).unlink()
    for shards in shard_folders(folder):
        remove_shards(shards)


def shard_name(rank: int) -> str:
    """The file, in a folder of a sharded checkpoint, that one process wrote."""
    return f"shard-{rank:05d}.safetensors"


def shard_folders(folder: Path) -> list[Path]:
    """The folders of sharded checkpoints that stand in a run's folder."""
    named = [path for path in sorted(folder.glob("sharded-*")) if re.fullmatch(r"sharded-[0-9]{8,}", path.name)]
    return [path for path in named if path.is_dir() and not path.is_symlink()]


def remove_shards(shards: Path) -> None:
    """Removes the files of a sharded checkpoint, of this version or an earlier one, and the folder if it is empty
    then."""
    own = re.compile(r"shard-[0-9]{5,}\.safetensors")
    earlier = re.compile(r"\.metadata(\.tmp)?|__[0-9]+_[0-9]+\.distcp")
    unfinished = re.compile(r"\.(shard-[0-9]{5,}\.safetensors)\..*\.part")
    if shards.is_symlink() or not shards.is_dir():
        return
    for path in sorted(shards.iterdir()):
        if path.is_file() and not path.is_symlink():
            if earlier.fullmatch(path.name) or (own.fullmatch(path.name) and _begins_as_own(path)):
                path.unlink(missing_ok=True)
        elif match := unfinished.fullmatch(path.name):
            remove_leftovers(shards / match[1])
    with suppress(OSError):  # something else is in it
        shards.rmdir()


def remove_unfinished(folder: Path) -> None:
    """Removes what killed runs left in `folder` while they wrote one of its files. No run may be at work there."""
    for name in (ABOUT, METRICS, CHECKPOINT, MODEL, SHARDED, LENGTHS):
        remove_leftovers(folder / name)
    # Earlier versions let safetensors write its temporary file right here. Its beginning shows what it is.
    for path in folder.glob(".tmp??????"):
        if path.is_file() and not path.is_symlink() and _begins_as_own(path):
            path.unlink()


def _begins_as_own(path: Path) -> bool:
    """Whether a file that may be incomplete begins like one of the course's files of tensors."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = file.read(min(size, 1 << 20))
    return header.startswith(b"{") and b'"nl_course.' in header


def _is_own(path: Path, is_run: bool) -> bool:
    """Whether an ordinary file is a run's. `is_run`: whether run.json beside it is one's."""
    if path.name == ABOUT:
        return is_run
    if path.name == METRICS:
        return _are_own_metrics(path, is_run)
    if path.name == SHARDED:
        return is_run or _holds_json(path, ("folder", "progress"))
    if path.name == LENGTHS:
        return is_run
    if path.name == POSITIONS:
        return True
    return _is_own_checkpoint(path, is_run)


def _are_own_metrics(path: Path, is_run: bool) -> bool:
    with open(path, "rb") as file:
        first_line = file.readline(10_000)
    # A crash can cut off even the first line.
    if is_run and first_line.startswith(_BEGINNING[: len(first_line)]):
        return True
    try:
        return _MEASURED <= parse_json(first_line).keys()
    except (ValueError, AttributeError):
        return False


def _is_own_checkpoint(path: Path, is_run: bool) -> bool:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError):
        return is_run  # damaged; what reads it says so
    return any(key.startswith("nl_course.") for key in metadata)


def _holds_json(path: Path, keys: tuple[str, ...]) -> bool:
    """Whether a file holds a JSON object with these keys, each with an object or a text."""
    try:
        value = parse_json(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(value, dict) and all(isinstance(value.get(key), (dict, str)) for key in keys)

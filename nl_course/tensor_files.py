"""How the course keeps tensors in a file: safetensors, with a description in JSON and checksums beside it.

    write_tensors(path, {"w": w}, "nl_course.state", {"position": 7}, "saved state")
    with open_tensors(path, "nl_course.state", "saved state") as file:
        file.description["position"], file.tensor("w")

States and checkpoints are such files. There is no pickle in them, so a file from anywhere is safe to open. A file is
written whole or not at all.

The description stands in the file's metadata, under a key that says what the file is: {"sha256": {"description": hex,
"tensors": {name: hex}}, "description": {...}}. There is a SHA-256 of the description, and one of each tensor: of its
name, dtype, shape and bytes. What is read is compared with them, and only
that: reading a description reads no tensor. SHA-256 takes a second for 0.8 GB on one core, and less than half of that
where the processor has instructions for it; a disk takes as long. A file that was written before there were checksums
is read with a warning.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nl_course.errors import CourseError
from nl_course.files import check_file, course_root, parse_json, write_atomically


def write_tensors(
    path: str | os.PathLike, tensors: Mapping[str, Tensor], key: str, description: Any, what: str
) -> None:
    """Writes tensors and a description (anything JSON holds), which stands under `key` in the file's metadata. The same
    tensors and description give the same bytes.

    `what` the file is stands in messages, e.g. "checkpoint". Raises CourseError if the file cannot be written; an older
    file at `path` then stands as it was.
    """
    # Clones: safetensors refuses tensors that share memory, as views of one buffer may.
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    try:
        # As it will be read: with strings for keys and lists for tuples. Refuses what `open_tensors` could not read.
        description = parse_json(json.dumps(description))
    except (TypeError, ValueError, RecursionError) as error:
        raise CourseError(f"cannot write the {what} {path}: its description is not JSON ({error}).") from error
    checksums = {
        "description": _checksum_of_json(description),
        "tensors": {name: checksum(name, tensor) for name, tensor in sorted(copies.items())},
    }
    # One entry only: safetensors writes several in any order.
    metadata = {key: json.dumps({"sha256": checksums, "description": description})}
    try:
        write_atomically(path, lambda temporary: save_file(copies, temporary, metadata=metadata))
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or error
        raise CourseError(f"cannot write the {what} {path}: {why}.") from error


@contextmanager
def open_tensors(path: str | os.PathLike, key: str, what: str, also: str = "") -> Iterator["TensorFile"]:
    """Opens a file of `write_tensors`. Raises CourseError, naming the file, if it is missing, unreadable, damaged or of
    another kind. `also` is what the versions that wrote no checksums left out besides, for the warning."""
    check_file(path, what)
    try:
        opened = safe_open(os.fspath(path), framework="pt", device="cpu")
    except (OSError, SafetensorError) as error:
        raise _damaged(path, what, error) from error
    with opened as file:
        yield TensorFile(file, path, key, what, also)


class TensorFile:
    """An open file: its `description`, the `names` of its tensors, and each tensor when it is asked for."""

    def __init__(self, file: Any, path: str | os.PathLike, key: str, what: str, also: str = ""):
        """`file` as safetensors opened it; the others as in `open_tensors`."""
        self.path = path
        self.what = what
        self.names: frozenset[str] = frozenset(file.keys())
        self._file = file
        self._checksums: dict[str, str] | None = None
        # Stands for all that is in the file; None for a file without checksums.
        self.fingerprint: str | None = None
        metadata = file.metadata() or {}
        if key not in metadata:
            raise CourseError(f"{path} holds tensors, but it is not a {what} of the course.")
        try:
            content = parse_json(metadata[key])
        except ValueError as error:
            raise _damaged(path, what, f"its description is not JSON: {error}") from error
        # Either of the two says that there are checksums: a flipped bit in a name must not pass for an older file.
        if isinstance(content, dict) and content.keys() & {"sha256", "description"}:
            self.description = content.get("description")
            self._take(content.get("sha256"))
        else:
            self.description = content
            _warn_unchecked(path, what, also)

    def _take(self, checksums: Any) -> None:
        """Keeps the tensors' checksums, once it is known that the description and the list of tensors are whole."""
        complete = isinstance(checksums, dict) and isinstance(checksums.get("tensors"), dict)
        if not complete or checksums["tensors"].keys() != self.names:
            raise _damaged(self.path, self.what, "its list of checksums does not fit its tensors")
        if _checksum_of_json(self.description) != checksums.get("description"):
            raise _damaged(self.path, self.what, "the checksum of its description does not match")
        self._checksums = checksums["tensors"]
        self.fingerprint = _checksum_of_json(checksums)

    @property
    def has_checksums(self) -> bool:
        """Whether what is read is compared with checksums."""
        return self._checksums is not None

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape, without reading it. Raises CourseError if the file has no tensor of that name."""
        self._check_name(name)
        return tuple(self._file.get_slice(name).get_shape())

    def tensor(self, name: str) -> Tensor:
        """A tensor, on the processor, compared with its checksum. Raises CourseError if there is none or it differs."""
        self._check_name(name)
        try:
            tensor = self._file.get_tensor(name)
        except Exception as error:  # a type that torch lacks: safetensors and torch have several errors for that
            raise _damaged(self.path, self.what, f"{name!r}: {error}") from error
        if self._checksums is not None and checksum(name, tensor) != self._checksums[name]:
            raise _damaged(self.path, self.what, f"the checksum of {name!r} does not match")
        return tensor

    def _check_name(self, name: str) -> None:
        if name not in self.names:
            raise _damaged(self.path, self.what, f"it lacks the tensor {name!r}")

    def fault(self, why: str) -> CourseError:
        """An error that says that this file is damaged, and why: for those who read its description."""
        return _damaged(self.path, self.what, why)


def checksum(name: str, tensor: Tensor) -> str:
    """The SHA-256 of a tensor's name, dtype, shape and bytes, in hex digits. The tensor is on the processor."""
    digest = hashlib.sha256(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
    # As bytes, whatever the dtype: numpy, through which the digest reads them, has no bfloat16.
    digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _checksum_of_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _damaged(path: str | os.PathLike, what: str, why: object) -> CourseError:
    reason = " ".join(str(why).split())
    return CourseError(f"the {what} {path} is damaged or incomplete and cannot be read ({reason}).")


def _warn_unchecked(path: str | os.PathLike, what: str, also: str) -> None:
    # What the course ships is checked by whatever brought it: git, or the installer.
    if check_file(path, what).resolve().is_relative_to(course_root() / "assets"):
        return
    # Python shows a warning once per text, hence once per file.
    warnings.warn(
        f"the {what} {path} is from a version of the course that kept no checksums{also}: damage would not be "
        "noticed. Saving it again adds them.",
        stacklevel=2,
    )

"""A recipe whose models are trained and measured one by one, each kept as soon as it is done.

    class Frontier(Recipe):
        name = "frontier"
        def identity(self, memory, size, seed): ...      everything that is asked of this part, as JSON
        def make(self, folder, memory, size, seed): ...  trains and measures it; returns what is kept

    Frontier(device="cpu").part("titans", "middle", 0)   makes it, or returns what was kept of it

A recording that was stopped continues where it was. One whose config changed makes only those parts anew that the
change concerns, since a part is kept under a mark of its identity. A recording that is started twice uses two cores:
each process claims the part that it makes, and leaves those to the other that the other has claimed.
"""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from nl_course.errors import CourseError
from nl_course.record import parts
from nl_course.record.provenance import Recording
from nl_course.record.sizes import settings
from nl_course.training.run_lock import RunLock

LOOK_AGAIN = 2.0  # seconds until a part that another process makes is looked for again

Part = dict[str, Any]  # what is kept of one model: JSON


class PartInUse(CourseError):
    """Another process is making this part."""


class Recipe:
    """One recording made of parts. Subclasses set `name` and define `identity`, `make` and `run`.

    `assets` is where a quick trial writes; its parts are kept beside. Otherwise parts are kept in the learner's cache.
    `config` replaces the recording's own config, `folder` the folder of its parts."""

    name: ClassVar[str]

    def __init__(
        self,
        device: str = "cpu",
        quick: bool = False,
        assets: Path | None = None,
        config: dict[str, Any] | None = None,
        folder: Path | None = None,
    ):
        self.device = device
        self.config = self.settings(device, quick) if config is None else config
        self.recording = Recording(self.name, self.config, device)
        self.folder = folder
        if folder is None:
            self.folder = self.parts_folder(assets if quick else None)

    @classmethod
    def settings(cls, device: str = "cpu", quick: bool = False) -> dict[str, Any]:
        """The recording's config for that device; the quick one lasts seconds."""
        return settings(cls.name, device, quick)

    def parts_folder(self, beside: Path | None) -> Path:
        """Where the parts of this recipe are kept."""
        return parts.parts_folder(self.name, beside)

    def identity(self, *key: Any) -> Any:
        """Everything that is asked of a part: if any of it changes, the part is made anew. Anything JSON holds."""
        raise NotImplementedError

    def make(self, folder: Path, *key: Any) -> Part:
        """Trains and measures one part. A training run keeps its checkpoints in `folder`."""
        raise NotImplementedError

    def file_name(self, *key: Any) -> str:
        """The part's file without its ending."""
        return "-".join(str(part) for part in key)

    def run_folder(self, *key: Any) -> Path:
        """Where a part's training run keeps its checkpoints: named by the part's identity, so that a changed part
        never resumes another one's run."""
        return self.folder / parts.mark(self.identity(*key))

    def part(self, *key: Any) -> Part:
        """A part: what is kept of it, or made now."""
        return self.made([key])[0]

    def made(self, keys: Sequence[tuple[Any, ...]]) -> list[Part]:
        """The parts with these keys, kept or made now, one after the other. Those that another process is making are
        left to it, and looked for again after all others."""
        found: dict[tuple[Any, ...], Part] = {}
        told = False
        while len(found) < len(set(keys)):
            before = len(found)
            for key in dict.fromkeys(keys):
                if key in found:
                    continue
                try:
                    found[key] = self._claimed(key)
                except PartInUse as taken:
                    waits_for = taken
            if len(found) == before:
                if not told:
                    print(f"{self.name} waits. {waits_for}", flush=True)
                    told = True
                time.sleep(LOOK_AGAIN)
        return [found[key] for key in keys]

    def _claimed(self, key: tuple[Any, ...]) -> Part:
        """A part, while nobody else makes it. Raises PartInUse if another process does."""
        name = self.file_name(*key)
        identity = json.loads(json.dumps(self.identity(*key)))
        self.folder.mkdir(parents=True, exist_ok=True)
        claim = RunLock(self.folder, f"{name}.lock")
        try:
            claim.take()
        except CourseError as error:
            raise PartInUse(str(error)) from None
        try:
            path = self.folder / f"{name}.json"
            return parts.kept(path, identity, lambda: self.make(self.run_folder(*key), *key))
        finally:
            claim.release()

    def provenance(self, *keys: str) -> dict[str, Any]:
        """Some of what the recording says about itself now: a part is made at a time of its own."""
        about = Recording(self.name, self.config, self.device).about()
        return {key: about[key] for key in keys if key in about}


def selected(part: Part, *keys: str) -> dict[str, Any]:
    """Some entries of a part."""
    return {key: part[key] for key in keys}


def make_part(recipe: type[Recipe], arguments: list[str] | None = None) -> None:
    """`python -m nl_course.record.{name} KEY ...`: makes one part. Numbers are read as numbers."""
    arguments = sys.argv[1:] if arguments is None else arguments
    recipe().part(*(int(argument) if argument.isdigit() else argument for argument in arguments))

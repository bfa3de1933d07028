"""A recipe whose models are trained and measured one by one, each kept as soon as it is done.

    class Frontier(Recipe):
        name = "frontier"
        def identity(self, memory, size, seed): ...      everything that is asked of this part, as JSON
        def make(self, folder, memory, size, seed): ...  trains and measures it; returns what is kept

    Frontier(device="cpu").part("titans", "middle", 0)   makes it, or returns what was kept of it

A recording that was stopped continues where it was. One whose config changed makes only those parts anew that the
change concerns, since a part is kept under a mark of its identity.
"""

import json
import sys
from pathlib import Path
from typing import Any, ClassVar

from nl_course.record import parts
from nl_course.record.provenance import Recording
from nl_course.record.sizes import settings

Part = dict[str, Any]  # what is kept of one model: JSON


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
        self.folder = self.parts_folder(assets if quick else None) if folder is None else folder

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
        path = self.folder / f"{self.file_name(*key)}.json"
        identity = json.loads(json.dumps(self.identity(*key)))
        return parts.kept(path, identity, lambda: self.make(self.run_folder(*key), *key))

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

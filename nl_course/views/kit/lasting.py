"""Widgets of our own that are right whatever a browser missed: the state holds all, and a browser may ask for it."""

import json
from pathlib import Path

import anywidget

FILES = Path(__file__).parent / "files"


def script(*names: str, **constants) -> str:
    """The JavaScript of the files named, one module, after the constants given."""
    lines = [f"const {name} = {json.dumps(value)};" for name, value in constants.items()]
    return "\n".join([*lines, *((FILES / f"{name}.js").read_text("utf-8") for name in names)])


class Lasting(anywidget.AnyWidget):
    """A widget whose browser side begins with `alive` of `files/alive.js`: it asks once for what it may have missed."""

    def __init__(self, **traits):
        super().__init__(**traits)
        self.on_msg(self._asked)

    def knows(self, browser: dict) -> bool:
        """Whether a browser that said this of what it has is up to date; then nothing is sent."""
        return False

    def heard(self, content: dict) -> None:
        """Any other message of the browser."""

    def _asked(self, _, content: dict, buffers: list) -> None:
        if content.get("ask") != "state":
            self.heard(content)
        elif not self.knows(content):
            self.send_state([name for name in self.keys if name not in ("_esm", "_css")])

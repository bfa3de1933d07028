"""Writes assets/diagrams/*.svg."""

import sys

from tools.diagrams.everything import drawings
from tools.run_notebooks import ROOT

FOLDER = ROOT / "assets/diagrams"


def contents() -> dict[str, str]:
    """The name of each file -> its text."""
    return {f"{drawing.name}.svg": drawing.svg() for drawing in drawings()}


def main() -> int:
    """Writes every file, removes those that nothing makes, and says what a reader would stumble over."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    files = contents()
    for path in FOLDER.glob("*"):
        if path.name not in files:
            path.unlink()
    for name, text in files.items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    faults = [f"{drawing.name}: {fault}" for drawing in drawings() for fault in drawing.faults()]
    print("\n".join(faults), file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())

"""The stage's drawing code as one ES module: the small files of `js`, joined in the order of their imports.

A widget is given its code as one string, and a page that is opened from a disk cannot import files. So each file
imports by name from its neighbors alone, exports by name, and no two files use one name at their top level; then the
joined text without those lines is the same program. `tests/views/test_stage.py` holds the files to that.
"""

import json
import re
from functools import lru_cache
from importlib import resources

FOLDER = resources.files("nl_course.views.stage") / "js"
_IMPORT = re.compile(r'^import \{([^}]*)\} from "\./([a-z]+)\.js";\n', re.MULTILINE)


def source(name: str) -> str:
    """The text of one file, `js/NAME.js`."""
    return (FOLDER / f"{name}.js").read_text("utf-8")


def imported(text: str) -> list[str]:
    """The neighbors that a file's text imports from, in order."""
    return [name for _, name in _IMPORT.findall(text)]


def ordered(name: str, before: tuple[str, ...] = ()) -> tuple[str, ...]:
    """`name` and all that it imports, each after what it imports itself."""
    order = before
    for neighbor in imported(source(name)):
        if neighbor not in order:
            order = ordered(neighbor, order)
    return (*order, name) if name not in order else order


@lru_cache
def bundle(name: str) -> str:
    """The program of `js/NAME.js` as one module, which exports what that file does."""
    parts = []
    for part in ordered(name):
        text = _IMPORT.sub("", source(part))
        if part != name:
            text = re.sub(r"^export ", "", text, flags=re.MULTILINE)
        parts.append(text)
    return "\n".join(parts)


def styles() -> str:
    """The stage's style sheet."""
    return (resources.files("nl_course.views.stage") / "stage.css").read_text("utf-8")


def site_script(take: str) -> str:
    """A plain script, which a page opened from a disk may load: `mountStage`, the styles, and the take (JSON) as
    `recordedTake`."""
    program = re.sub(r"^export ", "", bundle("stage"), flags=re.MULTILINE)
    return (
        f"window.mountStage ??= (() => {{\n{program}\n"
        'const style = document.createElement("style");\n'
        f"style.textContent = {json.dumps(styles())};\ndocument.head.append(style);\nreturn mount;\n}})();\n"
        f"window.recordedTake ??= {take};\n"
    )


def in_script(data: str) -> str:
    """JSON as it may stand inside a script of a page: nothing in it looks like the script's end."""
    return data.replace("</", "<\\/")


def page(take: str, dark: bool = False) -> str:
    """A page of its own that plays a recorded take (JSON): no kernel, no network."""
    background = "#15191e" if dark else "#ffffff"
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<title>A machine that reads</title>\n"
        f"<style>body {{ margin: 8px; background: {background}; }}\n{styles()}</style>\n"
        '<div id="stage"></div>\n<script type="module">\n'
        f"{bundle('stage')}\nwindow.take = {in_script(take)};\nwindow.mountStage = mount;\n"
        'window.stage = mount(document.getElementById("stage"), window.take);\n</script>\n</html>\n'
    )

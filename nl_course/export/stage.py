"""The stage on a page: the recorded take, or the one that a notebook's live model made. It moves without a kernel."""

import json
import re

from nl_course.views.stage.bundle import in_script, site_script
from nl_course.views.stage.widget import recorded_take

SCRIPT = "files/stage.js"
# The README's film of the stage, as HTML.
_FILM = re.compile(r'<p><img [^>]*src="previews/stage\.gif"[^>]*>\s*</p>')


def files() -> dict[str, bytes]:
    """The script that pages with a stage load, by its path in the export."""
    return {SCRIPT: site_script(json.dumps(recorded_take())).encode()}


def stage(content: dict, place: str) -> str:
    """The HTML of a stage: `content` as the view hands it over (views/stage/widget.py), `place` an id on the page."""
    box = re.sub(r"\W", "-", place)
    take = "window.recordedTake"
    if content["take"] is not None:
        take = in_script(json.dumps(content["take"]))
    call = (
        f'mountStage(document.getElementById("{box}"), {{ ...{take}, unfolded: {json.dumps(content["unfolded"])} }});'
    )
    drawn = f'<script src="{SCRIPT}"></script><div id="{box}"></div><script>{call}</script>'
    return f'<figure class="view">{drawn}</figure>'


def on_front_page(body: str) -> str:
    """The front page with the stage itself in place of its film."""
    return _FILM.sub(lambda _: stage({"take": None, "unfolded": False}, "stage"), body)

"""The README's moving picture: `python -m tools.stage_gif` films the recorded stage in a browser, writes assets/stage.gif.

It is one reading at ten words a second, frame by frame: the stage is asked for the frame of each moment, so a slow
machine makes the same film as a fast one.
"""

import io
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from nl_course.files import asset, course_root
from nl_course.views.stage.bundle import page
from nl_course.views.stage.widget import RECORDING
from tools.browser import chromium

WORDS_PER_SECOND = 10
FRAMES_PER_SECOND = 10
REST = 2.0  # seconds on the last frame
WIDTH = 900  # of the page, in pixels
COLORS = 96


def frames(browser) -> Iterator[Image.Image]:
    """The frames of one reading, from its first byte to its last."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stage.html"
        path.write_text(page(asset(RECORDING).read_text("utf-8")), "utf-8")
        opened = browser.new_page(viewport={"width": WIDTH, "height": 900})
        opened.goto(path.as_uri())
        opened.wait_for_function("() => window.stage?.state.t !== null")
        # What only a hand can move is left out of the film.
        opened.add_style_tag(content=".nl-stage-outer, .nl-stage-readout, .nl-stage-heads { display: none !important }")
        over = False
        number = 0
        while not over:
            over = opened.evaluate("([s, speed]) => window.stage.film(s, speed)", [number / FRAMES_PER_SECOND, WORDS_PER_SECOND])
            shot = opened.locator(".nl-stage").screenshot(animations="disabled")
            yield Image.open(io.BytesIO(shot)).convert("RGB")
            number += 1


def film(path: Path) -> None:
    """Writes the film to `path`."""
    with chromium() as browser:
        shots = list(frames(browser))
    # One palette for all, from the last frame, which has every color: unchanged parts then cost nothing.
    palette = shots[-1].quantize(COLORS, dither=Image.Dither.NONE)
    pictures = [shot.quantize(palette=palette, dither=Image.Dither.NONE) for shot in shots]
    durations = [1000 // FRAMES_PER_SECOND] * len(pictures)
    durations[-1] = int(1000 * REST)
    first, *others = pictures
    first.save(path, save_all=True, append_images=others, duration=durations, loop=0, optimize=False, disposal=1)


if __name__ == "__main__":
    written = course_root() / "assets" / "stage.gif"
    film(written)
    print(f"wrote {written}: {written.stat().st_size / 1e6:.2f} MB", file=sys.stderr)

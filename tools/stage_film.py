"""The stage's pictures: `python -m tools.stage_film` writes stage.png and the README's stage.gif in assets/previews/.

The film is one reading of the recorded take at ten words a second. The stage is asked for the frame of each moment, so
a slow machine makes the same film as a fast one.
"""

import io
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from nl_course.files import asset, course_root
from nl_course.views.stage.bundle import page
from nl_course.views.stage.widget import RECORDING
from tools.browser import PATIENCE, chromium
from tools.shots import shrink

WORDS_PER_SECOND = 10
FRAMES_PER_SECOND = 8
REST = 3.0  # seconds on the last frame
WIDTH, HEIGHT = 1000, 900  # of the page, in pixels
FILMED = 760  # width of the film, in pixels
COLORS = 64
STILL = 86  # the byte on the still picture: the last digit of the answer
# What only a hand can move is left out of the film.
HANDS = ".nl-stage-outer, .nl-stage-readout, .nl-stage-heads, .nl-stage-gate input, .nl-stage-gate output"


@contextmanager
def stage_page(browser) -> Iterator:
    """Playwright's page that shows the recorded take."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stage.html"
        path.write_text(page(asset(RECORDING).read_text("utf-8")), "utf-8")
        opened = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        opened.set_default_timeout(PATIENCE * 1000)
        opened.goto(path.as_uri())
        opened.wait_for_function("() => window.stage?.state.t !== null")
        yield opened


def frames(opened) -> Iterator[Image.Image]:
    """The frames of one reading, from its first byte to its last."""
    opened.add_style_tag(content=f"{HANDS} {{ display: none !important }}")
    over = False
    number = 0
    while not over:
        seconds = number / FRAMES_PER_SECOND
        over = opened.evaluate("([s, speed]) => window.stage.film(s, speed)", [seconds, WORDS_PER_SECOND])
        shot = Image.open(io.BytesIO(opened.locator(".nl-stage").screenshot(animations="disabled"))).convert("RGB")
        yield shot.resize((FILMED, round(shot.height * FILMED / shot.width)), Image.Resampling.LANCZOS)
        number += 1


def write_film(shots: list[Image.Image], path: Path) -> None:
    """The frames as a GIF that plays for ever."""
    # One palette for all, from a frame with every color: what does not change then costs nothing.
    palette = shots[len(shots) // 2].quantize(COLORS, dither=Image.Dither.NONE)
    first, *others = [shot.quantize(palette=palette, dither=Image.Dither.NONE) for shot in shots]
    durations = [1000 // FRAMES_PER_SECOND] * len(shots)
    durations[-1] = int(1000 * REST)
    first.save(path, save_all=True, append_images=others, duration=durations, loop=0, optimize=False, disposal=1)


if __name__ == "__main__":
    previews = course_root() / "assets" / "previews"
    with chromium() as browser, stage_page(browser) as opened:
        opened.evaluate("t => window.stage.show(t)", STILL)
        opened.locator(".nl-stage").screenshot(path=previews / "stage.png", animations="disabled")
        shrink(previews / "stage.png")
        write_film(list(frames(opened)), previews / "stage.gif")
    print(f"stage.gif has {(previews / 'stage.gif').stat().st_size:,} bytes", file=sys.stderr)

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

import numpy as np
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
COLORS = 160
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
    """The frames as a GIF that plays for ever. A pixel that stays as it was is transparent: that is cheap."""
    palette = palette_of(shots)
    same = COLORS  # the index after the last color
    pictures, before = [], None
    for shot in shots:
        now = np.asarray(shot.quantize(palette=palette, dither=Image.Dither.NONE))
        changed = now if before is None else np.where(now == before, same, now)
        picture = Image.fromarray(changed.astype(np.uint8))
        picture.putpalette([*palette.getpalette()[: 3 * COLORS], 255, 255, 255])
        pictures.append(picture)
        before = now
    durations = [1000 // FRAMES_PER_SECOND] * len(shots)
    durations[-1] = int(1000 * REST)
    first, *others = pictures
    more = {"duration": durations, "loop": 0, "disposal": 1, "transparency": same, "optimize": False}
    first.save(path, save_all=True, append_images=others, **more)


def palette_of(shots: list[Image.Image]) -> Image.Image:
    """One palette for all frames, from every eighth of them."""
    some = shots[::8]
    strip = Image.new("RGB", (some[0].width, sum(shot.height for shot in some)))
    top = 0
    for shot in some:
        strip.paste(shot, (0, top))
        top += shot.height
    # Without k-means gray comes out green, and green has a meaning on the stage.
    return strip.quantize(COLORS, method=Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE)


if __name__ == "__main__":
    previews = course_root() / "assets" / "previews"
    with chromium() as browser, stage_page(browser) as opened:
        opened.evaluate("t => window.stage.show(t)", STILL)
        opened.locator(".nl-stage").screenshot(path=previews / "stage.png", animations="disabled")
        shrink(previews / "stage.png")
        write_film(list(frames(opened)), previews / "stage.gif")
    print(f"stage.gif has {(previews / 'stage.gif').stat().st_size:,} bytes", file=sys.stderr)

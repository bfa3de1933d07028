"""Small still pictures of charts and views, for notebooks that are read where no kernel runs: on GitHub, in VS Code's
preview, in print.

`make notebooks` puts them into the outputs that it commits. A picture shows what the figure showed when its notebook
ended, under its title and above its sentence. Its fingerprint stands in the output's metadata: as long as a figure says
the same, its picture stays as it is, byte for byte, on whichever machine the notebook runs.
"""

import base64
import hashlib
import io
import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import plotly
from PIL import Image, ImageColor

from nl_course.views.kit.plot import PNG, STILL
from nl_course.views.kit.theme import GRID, INK
from tools.browser import chromium

FINGERPRINT = "picture"  # its key in an output's metadata
MOST_BYTES = 25_000  # of a picture
WIDTH = 820  # pixels
# How a picture is made small: by fewer colors, which stand at least so far apart in RGB, then by drawing it smaller.
APART = (16, 24, 32, 40, 48, 64)
SIZES = (1, 0.85, 0.7, 0.55)
ALWAYS = ("white", INK, GRID)  # colors that every picture keeps as they are
DIGITS = 3  # of each number in a fingerprint: finer differences cannot be seen
NOTHING = 1e-12  # smaller numbers are rounding errors
SHOWN = ("title", "read_out", "figure")  # of a still; a chart has no title
PAGE = f"""<!doctype html><meta charset="utf-8">
<style>
  body {{ margin: 0; background: white; color: {INK}; font: 14px/1.4 system-ui, "DejaVu Sans", sans-serif; }}
  main {{ width: {WIDTH}px; padding: 4px 0 6px; }}
  h1 {{ font-size: 18px; margin: 2px 8px 4px; }}
  p {{ max-width: 70ch; margin: 2px 8px; }}
</style>
<main><h1></h1><div></div><p></p></main>"""
DRAW = f"""async ({{ title, read_out, figure }}) => {{
  const [main] = document.getElementsByTagName("main"), [heading, frame, sentence] = main.children;
  const {{ data, layout }} = JSON.parse(figure);
  main.style.zoom = 1;
  heading.textContent = title;
  heading.hidden = !title;
  sentence.textContent = read_out;
  Plotly.purge(frame);
  const width = Math.min(layout.width ?? {WIDTH}, {WIDTH});
  await Plotly.newPlot(frame, data, {{ ...layout, width, autosize: false }}, {{ staticPlot: true }});
  await document.fonts.ready;
}}"""


class Painter:
    """Draws stills (`nl_course.views.kit.plot.still`) in a browser: that given, or one that starts with the first."""

    def __init__(self, browser: Any = None):
        self._open = ExitStack()
        self._browser, self._page = browser, None

    def __enter__(self) -> "Painter":
        return self

    def __exit__(self, *_) -> None:
        self._open.close()

    def paint(self, still: dict[str, Any]) -> bytes:
        """A PNG of at most MOST_BYTES. Raises NoBrowser without a browser."""
        if self._page is None:
            browser = self._browser or self._open.enter_context(chromium())
            self._page = browser.new_page(viewport={"width": WIDTH, "height": 900})
            self._open.callback(self._page.close)
            self._page.set_default_timeout(0)
            self._page.set_content(PAGE)
            self._page.add_script_tag(path=Path(plotly.__file__).parent / "package_data" / "plotly.min.js")
        self._page.evaluate(DRAW, {"title": "", **{key: still[key] for key in SHOWN if key in still}})
        main = self._page.locator("main")
        for size in SIZES:
            main.evaluate("(main, size) => { main.style.zoom = size; }", size)
            png = main.screenshot(animations="disabled")
            for apart in APART:
                packed = packed_with(png, apart)
                if len(packed) <= MOST_BYTES:
                    return packed
        raise ValueError(f"the picture of {still['name']} has {len(packed):,} bytes, more than {MOST_BYTES:,}.")


def packed_with(png: bytes, apart: float) -> bytes:
    """The same picture in the colors that it shows most, each at least `apart` from the others in RGB."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    shown, counts = np.unique(np.asarray(picture).reshape(-1, 3), axis=0, return_counts=True)
    left = shown[np.argsort(-counts, kind="stable")].astype(int)  # (colors, 3), by area
    chosen = [np.array(ImageColor.getrgb(color)) for color in ALWAYS]
    for color in chosen:
        left = left[np.linalg.norm(left - color, axis=1) > apart]
    while len(left) and len(chosen) < 256:
        chosen.append(left[0])
        left = left[np.linalg.norm(left - left[0], axis=1) > apart]
    palette = Image.new("P", (1, 1))
    palette.putpalette(np.concatenate(chosen).tolist())
    packed = io.BytesIO()
    picture.quantize(palette=palette, dither=Image.Dither.NONE).save(packed, "PNG", optimize=True)
    return packed.getvalue()


def fingerprint(still: dict[str, Any]) -> str:
    """A hash of what a still shows: its words, and the figure's numbers as far as they can be seen."""
    figure = coarse(json.loads(still["figure"]))
    shown = [PAGE, DRAW, APART, SIZES, still.get("title", ""), still["read_out"], figure]
    return hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()[:12]


def coarse(tree: Any) -> Any:
    """A still's figure with every number rounded to DIGITS."""
    if isinstance(tree, dict):
        return {key: coarse(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [coarse(item) for item in tree]
    if isinstance(tree, float):
        return 0.0 if abs(tree) < NOTHING else float(f"{tree:.{DIGITS}g}")
    return tree


def illustrate(notebook: Any, before: Any, painter: Painter) -> None:
    """Gives each chart and view of a notebook that was just run its picture: that of the notebook as it was `before`
    where it shows the same. Raises NoBrowser where one has to be drawn and there is no browser."""
    kept = {}
    for cell in before.cells:
        for output in cell.get("outputs", []):
            if PNG in output.get("data", {}) and FINGERPRINT in output.metadata:
                kept[output.metadata[FINGERPRINT]] = output.data[PNG]
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            still = output.get("data", {}).get(STILL)
            if still is not None and not still.get("covered"):  # a covered picture would give the answer away
                mark = fingerprint(still)
                output.metadata[FINGERPRINT] = mark
                output.data[PNG] = kept.get(mark) or base64.b64encode(painter.paint(still)).decode()

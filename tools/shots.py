"""`make shots`: runs every notebook in the browser, photographs it page by page, and each view by itself.

    python -m tools.shots [--live] [--no-previews] [NOTEBOOK ...]     (all of notebooks/ when none is named)

The pages go to shots/NOTEBOOK-01.png ..., to be looked at; the views to assets/previews/NAME.png, which notebooks show
where no front end answers. Recorded runs stand in for live trainings unless --live is given.
"""

import argparse
import re
import shutil
import sys
import tempfile
from pathlib import Path

from nl_course.files import PICTURES
from nl_course.notebooks import all_notebooks
from tools.browser import Lab, NoBrowser, Page, chromium
from tools.run_notebooks import ROOT

SHOTS, PREVIEWS = ROOT / "shots", ROOT / "assets/previews"
WIDTH, HEIGHT = 1100, 1400
MOST_BYTES = 120_000  # of a preview
FIT = """view => {
  const plots = [...view.querySelectorAll('.main-svg')].map(plot => plot.getBoundingClientRect().width);
  Object.assign(view.style, { width: Math.max(600, ...plots) + 24 + 'px', background: 'white', padding: '6px' });
}"""  # a view as wide as its plot


def copy_course(folder: Path, recorded: bool = True) -> Path:
    """Copies notebooks and pictures into a folder, so that running them changes nothing; returns the folder."""
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns(".*"))
    for kind in PICTURES:
        if (ROOT / "assets" / kind).is_dir():
            shutil.copytree(ROOT / "assets" / kind, folder / "assets" / kind)
    for path in (folder / "notebooks").glob("*.ipynb") if recorded else []:
        switch = r"USE_RECORDED = False"
        path.write_text(re.sub(switch, "USE_RECORDED = True", path.read_text("utf-8")), "utf-8")
    return folder


def photograph_pages(page: Page, stem: str) -> int:
    """Writes shots/STEM-01.png ... and returns how many."""
    page.alone()
    for old in SHOTS.glob(f"{stem}-*.png"):
        old.unlink()
    taken = 0
    for taken, _ in enumerate(page.scroll(), 1):
        page.page.wait_for_timeout(800)  # plots that come into sight draw themselves anew
        page.page.screenshot(path=SHOTS / f"{stem}-{taken:02}.png")
    return taken


def photograph_views(page: Page) -> list[str]:
    """Writes assets/previews/NAME.png for each view and returns the names."""
    page.uncover()
    for name in page.views():
        view = page.view(name)
        view.scroll_into_view_if_needed()
        page.page.mouse.move(0, 0)
        view.evaluate(FIT)
        file = PREVIEWS / f"{name}.png"
        view.screenshot(path=file, animations="disabled")
        shrink(file)
    return page.views()


def shrink(file: Path, most: int = MOST_BYTES) -> None:
    """Makes a PNG smaller with as many colours as fit into `most` bytes; it says so if even 32 do not."""
    from PIL import Image

    picture = Image.open(file).convert("RGB")
    for colours in (256, 128, 64, 32):
        picture.quantize(colours, dither=Image.Dither.NONE).save(file, optimize=True)
        if file.stat().st_size <= most:
            return
    print(f"{file.name} has {file.stat().st_size:,} bytes, more than {most:,}.", file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="notebooks to photograph (default: all)")
    parser.add_argument("--live", action="store_true", help="train live instead of showing recorded runs")
    parser.add_argument("--no-previews", action="store_true", help="leave assets/previews as they are")
    options = parser.parse_args()
    SHOTS.mkdir(exist_ok=True)
    PREVIEWS.mkdir(parents=True, exist_ok=True)
    wrong = []
    with tempfile.TemporaryDirectory(prefix="nl-shots-") as private:
        folder = copy_course(Path(private) / "course", recorded=not options.live)
        with chromium() as browser, Lab(folder, browser) as lab:
            for path in options.notebooks or all_notebooks():
                with lab.notebook(f"notebooks/{path.name}", WIDTH, HEIGHT) as page:
                    page.run_all()
                    page.alone()
                    views = [] if options.no_previews else photograph_views(page)
                    pages = photograph_pages(page, path.stem)
                    wrong += [f"{path.name}: {error}" for error in page.errors()]
                print(f"{path.name}: {pages} pages in shots/, views: {', '.join(views) or 'none'}")
            wrong += [f"a request left the machine: {url}" for url in lab.strangers()]
    print("\n".join(wrong), file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except NoBrowser as missing:
        sys.exit(str(missing))

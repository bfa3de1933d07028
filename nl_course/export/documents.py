"""README.md as the front page, and every other text of the course as a page of its own."""

import re
from pathlib import Path

from nbconvert.filters import markdown2html

from nl_course.export.cells import page_of, with_links
from nl_course.export.maths import with_mathml
from nl_course.export.pages import frame
from nl_course.export.stage import on_front_page


def texts(root: Path) -> list[Path]:
    """The Markdown files that become pages."""
    top = [root / name for name in ("README.md", "CONTRIBUTING.md", "ROOMS.md") if (root / name).is_file()]
    return top + sorted((root / "notebooks").glob("*.md"))


def pages(root: Path, titles: dict[str, str]) -> dict[str, str]:
    """Name of a page -> its HTML. `titles` are the notebooks' titles by the stem of their files."""
    html = {}
    for path in texts(root):
        text = path.read_text(encoding="utf-8")
        heading = re.search(r"^#\s+(.+)$", text, re.M)
        body = markdown2html(with_links(with_mathml(with_anchors(text))))
        if path.name == "README.md":
            links = "".join(f'<li><a href="{stem}.slides.html">{title}</a></li>' for stem, title in titles.items())
            body = on_front_page(body)
            body += f"<h2>As slides</h2><ol>{links}</ol>"
        name = page_of(path.name)
        html[name] = frame(heading[1] if heading else path.stem, body, name.removesuffix(".html"), titles)
    return html


def with_anchors(text: str) -> str:
    """Links within a text, which name a heading as GitHub does (`#two-words`), as the pages name it (`#Two-words`)."""
    for heading in re.findall(r"(?m)^#+\s+(.+?)\s*$", text):
        words = re.sub(r"[^\w\s-]", "", heading)
        text = text.replace(f"](#{words.lower().replace(' ', '-')})", f"](#{heading.replace(' ', '-')})")
    return text

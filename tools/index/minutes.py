"""Minutes to read a notebook and to try what it asks, per section, by one rule for all notebooks.

A minute for 200 words of text and for each code cell, three for a view, eight for an exercise. Cells that only import
cost nothing. Neither do the tables that a tool writes, nor what is folded away; the machine's own time is left out too.
`python -m tools.index` stores the minutes in each notebook, and says their sum and those of each section in its opening
cell.
"""

import ast
import re

import nbformat

WORDS, CELL, VIEW, EXERCISE = 200, 1, 3, 8  # words per minute; minutes per code cell, view and exercise
_NOT_READ = re.compile(r"<!-- (\w+) \d\d -->.*?<!-- /\1 -->|<details>.*?</details>", re.S)
_SUMMARY = "<details><summary>Minutes per section</summary>"
_FOLDED = re.compile(rf"\n\n{_SUMMARY}.*?</details>", re.S)
_PARAGRAPH = re.compile(r"(?m)^\*\*Minutes\.\*\* .+(?:\n.+)*")
_SAID = re.compile(r"(?<=\*\*Minutes\.\*\* About )\d+(?=[ ,])")


def by_section(notebook: nbformat.NotebookNode) -> dict[str, int]:
    """Title of each `##` section -> minutes, at least 1, by title. What stands before the first one is not counted."""
    found: dict[str, float] = {}
    views: set[str] = set()
    title = ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            if heading := re.search(r"(?m)^##\s+(.+?)\s*$", cell.source):
                title = heading[1]
            cost = len(_NOT_READ.sub("", cell.source).split()) / WORDS
        else:
            cost = code_minutes(cell, views)
        if title:
            found[title] = found.get(title, 0.0) + cost
    return {title: max(1, round(cost)) for title, cost in sorted(found.items())}


def code_minutes(cell: nbformat.NotebookNode, views: set[str]) -> int:
    """Minutes of a code cell. `views` are the names of views imported so far; those that it imports are added."""
    if "exercise" in cell.metadata.get("tags", []):
        return EXERCISE
    try:
        body = ast.parse(re.sub(r"(?m)^(\s*)[%!].*$", r"\1pass", cell.source)).body
    except SyntaxError:
        return CELL
    imports = [node for node in body if isinstance(node, (ast.Import, ast.ImportFrom))]
    for node in imports:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("nl_course.views"):
            views |= {alias.asname or alias.name for alias in node.names if alias.name[0].isupper()}
    if len(imports) == len(body):
        return 0
    calls = [node.func for statement in body for node in ast.walk(statement) if isinstance(node, ast.Call)]
    shows = any(isinstance(name, ast.Name) and name.id in views for name in calls)
    return VIEW if shows else CELL


def total(notebook: nbformat.NotebookNode) -> int:
    """Minutes of the whole notebook."""
    return sum(by_section(notebook).values())


def in_page_order(notebook: nbformat.NotebookNode, minutes: dict[str, int]) -> str:
    """The sections with their minutes as they follow each other on the page, folded away."""
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    titles = dict.fromkeys(re.findall(r"(?m)^##\s+(.+?)\s*$", text))
    lines = [f"* {minutes[title]} min: {title}" for title in titles]
    return "\n".join([_SUMMARY, "", *lines, "", "</details>"])


def refresh(notebook: nbformat.NotebookNode) -> bool:
    """Stores the minutes in the notebook, and says their sum and each section's in its opening cell. Whether that
    changed anything."""
    about = notebook.metadata.setdefault("nl_course", nbformat.from_dict({}))
    stored, minutes = about.get("minutes", {}), by_section(notebook)
    opening = _SAID.sub(str(sum(minutes.values())), notebook.cells[0].source)
    opening = _PARAGRAPH.sub(
        lambda found: found[0] + "\n\n" + in_page_order(notebook, minutes), _FOLDED.sub("", opening)
    )
    if dict(stored) == minutes and opening == notebook.cells[0].source:
        return False
    about.minutes = nbformat.from_dict(minutes)
    notebook.cells[0].source = opening
    return True

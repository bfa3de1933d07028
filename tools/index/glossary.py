"""The glossary, and the links from each term's first use in the course to it."""

import re

from nl_course.notebooks import TOUR, all_notebooks, is_core
from tools.index import family, rules
from tools.index.places import Cell, anchor, cells, data

# What a link cannot stand in: code, formulas, links and pictures, HTML, headings, the folded still pictures, and the
# tables of the family.
_CLOSED = re.compile(
    r"<!-- (?P<table>family|rules).*?<!-- /(?P=table) -->|"
    r"```.*?```|`+[^`]+`+|\$\$.+?\$\$|\$[^$\n]+\$|!?\[[^\]]*\]\([^)]*\)|<details>.*?</details>|<[^>]+>|^#+ .*?$",
    re.S | re.M,
)


def pattern(entry: dict) -> re.Pattern:
    """Finds a term: whole words, as it is written where it has capitals, else in any case."""
    forms = "|".join(entry.get("match", [re.escape(entry["term"])]))
    return re.compile(rf"(?<![\w-])(?:{forms})(?![\w-])", 0 if re.search("[A-Z]", entry["term"]) else re.I)


def link(term: str) -> str:
    return f"glossary.md#{anchor(term)}"


def first_use(source: str, entry: dict) -> tuple[int, int] | None:
    """Where in a text a term is first used in a place that can hold a link."""
    closed = [found.span() for found in _CLOSED.finditer(source)]
    for found in pattern(entry).finditer(source):
        if not any(start <= found.start() < end for start, end in closed):
            return found.span()
    return None


def linked(texts: list[tuple[str, str]]) -> dict[str, str]:
    """name -> text with links, for those of the (name, text) that change, in the order of `prose`. A term is linked
    where it is first used, in the tour and again in the numbered notebooks; a link that stands elsewhere is removed."""
    before = dict(texts)
    now = {name: re.sub(r"\[([^\]]+)\]\(glossary\.md#[^)]*\)", r"\1", text) for name, text in texts}
    tour = [name for name in now if name.startswith(f"{TOUR}#")]
    numbered = [name for name in now if name not in tour]
    for entry in data("glossary"):
        _link_first(entry, tour, now)
        _link_first(entry, numbered, now)
    return {name: text for name, text in now.items() if text != before[name]}


def _link_first(entry: dict, names: list[str], texts: dict[str, str]) -> None:
    """Links a term in the first of the named texts that uses it."""
    for name in names:
        if place := first_use(texts[name], entry):
            before, used, after = texts[name][: place[0]], texts[name][slice(*place)], texts[name][place[1] :]
            texts[name] = f"{before}[{used}]({link(entry['term'])}){after}"
            return


def prose() -> list[tuple[str, str]]:
    """(notebook#id, source) of all text cells: the core notebooks in reading order, then the further ones, then the
    tour. A reader of the core alone meets each term with its link."""
    import nbformat

    found = []
    core = [path for path in all_notebooks() if is_core(path.stem)]
    rest = [path for path in all_notebooks() if not is_core(path.stem)]
    for path in [*core, *sorted(rest, key=lambda path: path.stem == TOUR)]:
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "markdown":
                found.append((f"{path.stem}#{cell.id}", cell.source))
    return found


def used_first() -> dict[str, Cell]:
    """Term -> the cell that links to it."""
    found = {}
    for name, source in prose():
        for wanted in re.findall(r"\]\(glossary\.md#([^)]*)\)", source):
            found.setdefault(wanted, cells()[name])
    return {e["term"]: found[anchor(e["term"])] for e in data("glossary") if anchor(e["term"]) in found}


def page() -> str:
    """notebooks/glossary.md."""
    places = used_first()
    lines = [
        "# Glossary",
        "",
        "What the course's words mean, in the course's own words, and where each is first used. Made by",
        "`python -m tools.index`; the meanings stand in `tools/index/glossary.json`. At the end stands",
        "the family of memories on one page.",
        "",
    ]
    for entry in sorted(data("glossary"), key=lambda e: e["term"].lower()):
        where = f" First used in {places[entry['term']].link}." if entry["term"] in places else ""
        lines += [f"### {entry['term']}", "", entry["meaning"] + where, ""]
    return "\n".join([*lines, *family.page(), *rules.page()])

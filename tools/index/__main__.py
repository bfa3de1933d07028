"""See tools/index/__init__.py."""

import argparse
import sys

import nbformat

from nl_course.notebooks import all_notebooks
from tools.index import contents, evidence, family, glossary, marked, minutes, places, results, rules
from tools.run_notebooks import ROOT, write

PAGES = {
    "notebooks/glossary.md": glossary.page,
    "notebooks/evidence.md": evidence.page,
    "notebooks/results.md": results.page,
    "README.md": contents.readme,
}


def changed_cells() -> dict[str, str]:
    """The text cells that are not as their data make them, as they should be: tables of the family, then links."""
    prose = dict(glossary.prose())
    tables = family.filled(list(prose.items()))
    tables = {**tables, **rules.filled(list({**prose, **tables}.items()))}
    tables = {**tables, **marked.filled(list({**prose, **tables}.items()), "hours", contents.hours)}
    return {**tables, **glossary.linked(list({**prose, **tables}.items()))}


def refresh_notebooks(keep: bool) -> list[str]:
    """Fills the family's tables, links first uses and counts minutes. Returns what was not as it should be, by name;
    `keep` leaves the files as they are."""
    changed = changed_cells()
    stale = list(changed)
    for path in all_notebooks():
        notebook = nbformat.read(path, as_version=4)
        mine = [cell for cell in notebook.cells if f"{path.stem}#{cell.id}" in changed]
        for cell in mine:
            cell.source = changed[f"{path.stem}#{cell.id}"]
        counted = minutes.refresh(notebook)
        if counted:
            stale.append(f"the minutes of {path.stem}")
        if (mine or counted) and not keep:
            write(notebook, path)
    places.cells.cache_clear()
    return stale


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.index", description="Glossary, evidence, results, contents.")
    parser.add_argument("--check", action="store_true", help="change nothing; fail if anything would change")
    options = parser.parse_args()
    stale = refresh_notebooks(keep=options.check)
    lost = []
    for name, make in PAGES.items():
        path = ROOT / name
        try:
            text = make()
        except places.Lost as error:
            lost.append(f"{name} is left as it was: {error}")
            continue
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
            if not options.check:
                path.write_text(text, encoding="utf-8")
    print("\n".join([*stale, *lost]) or "nothing to change")
    return 1 if lost or (stale and options.check) else 0


if __name__ == "__main__":
    sys.exit(main())

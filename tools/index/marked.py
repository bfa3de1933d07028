"""Tables that a tool writes into notebooks, between two marks: <!-- NAME 05 --> ... <!-- /NAME -->."""

import re
from collections.abc import Callable


def pattern(name: str) -> re.Pattern:
    """A table called `name` between its marks; the group is the notebook's number."""
    return re.compile(rf"<!-- {name} (\d\d) -->\n.*?<!-- /{name} -->", re.S)


def filled(texts: list[tuple[str, str]], name: str, table: Callable[[str], list[str]]) -> dict[str, str]:
    """place -> text with its tables called `name` as they should be, for those of the (place, text) that change.
    `table` gives the lines of a notebook's table, by its number."""

    def made(mark: re.Match) -> str:
        return "\n".join([f"<!-- {name} {mark[1]} -->", "", *table(mark[1]), "", f"<!-- /{name} -->"])

    found = {}
    for place, text in texts:
        now = pattern(name).sub(made, text)
        if now != text:
            found[place] = now
    return found

"""Formulas of the notebooks' Markdown as MathML, which every present browser shows without a script."""

import re

from latex2mathml.converter import convert

# Code comes first, so that a $ inside it is left alone; then $$...$$, then $...$ on one line, which touches what it
# holds and has no digit behind it: from one price to the next is no formula.
_PARTS = re.compile(
    r"(?P<code>```.*?```|~~~.*?~~~|`+[^`]+`+)"
    r"|\$\$(?P<display>.+?)\$\$"
    r"|\$(?P<inline>(?!\s)[^$\n]+?(?<!\s))\$(?!\d)",
    re.S,
)


def with_mathml(markdown: str) -> str:
    """The same Markdown with every LaTeX formula as MathML; code is left alone. A formula that cannot be read raises
    ValueError, which names it."""

    def replaced(found: re.Match) -> str:
        if found["code"] is not None:
            return found[0]
        formula, kind = (found["display"], "block") if found["display"] is not None else (found["inline"], "inline")
        try:
            return re.sub(r"\s*\n\s*", " ", convert(formula.strip(), display=kind))
        except Exception as error:
            raise ValueError(f"the formula {formula.strip()!r} cannot be read: {type(error).__name__}") from error

    return _PARTS.sub(replaced, markdown)

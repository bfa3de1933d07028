"""Formulas of the notebooks' Markdown as MathML, which every present browser shows without a script."""

import re

from latex2mathml.converter import convert

# Code comes first, so that a $ inside it is left alone; then $$...$$; then $...$ in a paragraph. A formula in it has no
# space inside its dollars and no digit behind them: "from $5 to $6" is two prices and no formula.
_PARTS = re.compile(
    r"(?P<code>```.*?```|~~~.*?~~~|`+[^`]+`+)"
    r"|\$\$(?P<display>.+?)\$\$"
    r"|\$(?P<inline>(?!\s)(?:[^$\n]|\n(?!\s*\n))+?(?<!\s))\$(?!\d)",
    re.S,
)


def with_mathml(markdown: str) -> str:
    """The same Markdown with every LaTeX formula as MathML; code is left alone.

    Raises ValueError, naming the formula, for one that cannot be read.
    """
    return _PARTS.sub(_as_mathml, markdown)


def _as_mathml(match: re.Match) -> str:
    if match["code"] is not None:
        return match[0]
    is_display = match["display"] is not None
    formula = (match["display"] if is_display else match["inline"]).strip()
    try:
        mathml = convert(formula, display="block" if is_display else "inline")
    except Exception as error:
        raise ValueError(f"the formula {formula!r} cannot be read: {type(error).__name__}") from error
    # An empty line inside would end the HTML block for Markdown, so the formula is put on one line.
    return re.sub(r"\s*\n\s*", " ", mathml)

"""The table of evidence: equations with their functions, tests and cells; users' questions; sentences."""

from nl_course.notebooks import label
from tools.index.places import cell, data, function, test


def row(*columns: str) -> str:
    return "| " + " | ".join(column.replace("|", "\\|") for column in columns) + " |"


def head(*columns: str) -> list[str]:
    return [row(*columns), row(*("---" for _ in columns))]


def places(names: list[str]) -> str:
    """Links to cells; two cells under one heading are one link."""
    return ", ".join(dict.fromkeys(cell(name).link for name in names))


def page() -> str:
    """notebooks/evidence.md."""
    return "\n".join(
        [
            "# Evidence",
            "",
            "Where each equation of the course is, what proves it, where it is shown; which cell settles what users of",
            "other implementations asked; and what earns the sentence of each notebook. Made from `tools/index/*.json`",
            "by `python -m tools.index`; every link is checked by the tests.",
            "",
            "## Equation, function, test, cell",
            "",
            *head("equation", "source", "function", "test", "cell"),
            *(
                row(e["says"], e["source"], ", ".join(map(function, e["functions"])), ", ".join(map(test, e["tests"])),
                    places(e["cells"]))
                for e in data("equations")
            ),
            "",
            "## What users of other implementations asked",
            "",
            *head("they asked", "where", "settled in"),
            *(
                row(q["asked"], q["where"], ", ".join([*([places(q["cells"])] if q["cells"] else []),
                    *map(test, q.get("tests", [])), *map(function, q.get("functions", []))]))
                for q in data("questions")
            ),
            "",
            "## What each notebook lets you say, and what earns it",
            "",
            *head("notebook", "sentence", "earned in"),
            *(row(label(s["notebook"]), s["sentence"], places(s["cells"])) for s in data("sentences")),
            "",
        ]
    )  # fmt: skip

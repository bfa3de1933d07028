"""The memories of the course as one family: four choices, and what each memory chose.

    rows.py        the family on one page, as data: memory x inner loss x retention x inner optimizer x what is parallel
    reference.py   any composition of the four choices, one token at a time
    layer.py       such a composition as a memory like the others

The frame is that of MIRAS (Behrouz et al. 2025, arXiv 2504.13173); test-time regression (Wang, Shi and Fox 2025, arXiv
2501.12352) reaches the same four choices from statistics.
"""

from nl_course.family.layer import Composed, ComposedState
from nl_course.family.reference import ComposedConfig, composed
from nl_course.family.rows import ROWS, Row, row_of, rows_not_here, rows_of

__all__ = [
    "ROWS",
    "Composed",
    "ComposedConfig",
    "ComposedState",
    "Row",
    "composed",
    "row_of",
    "rows_not_here",
    "rows_of",
]

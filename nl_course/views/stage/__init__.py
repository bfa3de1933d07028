"""The stage: a machine that reads, drawn as it learns.

`widget` is the view, `js/` the drawing code in small files, `bundle` joins them, `stage.css` is their style. What is
drawn is a take, which `nl_course/record/stage` computes.
"""

from nl_course.views.stage.widget import Stage

__all__ = ["Stage"]

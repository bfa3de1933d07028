"""The stage, recorded: one text read by small models at several steps of their training.

`recipe` trains them, `text` is what they read, `reading` what every write did, `gradient` how the outer loop teaches
the writes, `take` all of it as JSON. `views/stage` draws a take.
"""

from nl_course.record.stage.recipe import run

__all__ = ["run"]

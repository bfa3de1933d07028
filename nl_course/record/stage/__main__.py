"""`python -m nl_course.record.stage NAME ...`: some memories' parts, and a recording of them alone."""

import sys

from nl_course.files import course_root
from nl_course.record.stage.recipe import Stage

if __name__ == "__main__":
    Stage().run(course_root() / "assets", sys.argv[1:] or None)

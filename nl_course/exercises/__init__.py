"""What is asked: one file a notebook (`ex01.py`, ...) holds its exercises; the engine checks answers."""

from nl_course.exercises.framework.engine import check, hint, solution, task

__all__ = ["check", "hint", "solution", "task"]

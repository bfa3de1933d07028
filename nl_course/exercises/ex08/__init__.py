"""Exercises of notebook 08."""

from nl_course.exercises.ex08.core import DISCUSSION, EXERCISES

__all__ = ["DISCUSSION", "EXERCISES"]

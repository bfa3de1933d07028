"""Exercises of notebook 03."""

from nl_course.exercises.ex03.core import DISCUSSION, EXERCISES

__all__ = ["DISCUSSION", "EXERCISES"]

"""Exercises of notebook 06."""

from nl_course.exercises.ex06.core import DISCUSSION, EXERCISES

__all__ = ["DISCUSSION", "EXERCISES"]

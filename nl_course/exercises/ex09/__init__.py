"""Exercises of notebook 09."""

from nl_course.exercises.ex09.core import DISCUSSION, EXERCISES

__all__ = ["DISCUSSION", "EXERCISES"]

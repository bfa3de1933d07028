"""Exercises of notebook 05."""

from nl_course.exercises.ex05.core import DISCUSSION, EXERCISES

__all__ = ["DISCUSSION", "EXERCISES"]

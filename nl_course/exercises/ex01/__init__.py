"""Exercises of notebook 01."""

from nl_course.exercises.ex01.core import DISCUSSION, EXERCISES

__all__ = ["DISCUSSION", "EXERCISES"]

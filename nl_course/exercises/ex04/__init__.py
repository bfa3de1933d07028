"""Exercises of notebook 04."""

from nl_course.exercises.ex04.core import DISCUSSION, EXERCISES

__all__ = ["DISCUSSION", "EXERCISES"]

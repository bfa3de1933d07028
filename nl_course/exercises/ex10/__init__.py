"""Exercises of notebook 10."""

from nl_course.exercises.ex10.core import DISCUSSION, EXERCISES

__all__ = ["DISCUSSION", "EXERCISES"]

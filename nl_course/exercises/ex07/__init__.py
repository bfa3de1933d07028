"""Exercises of notebook 07."""

from nl_course.exercises.ex07.core import DISCUSSION, EXERCISES

__all__ = ["DISCUSSION", "EXERCISES"]

"""Exercises of notebook 02."""

from nl_course.exercises.ex02.core import DISCUSSION, EXERCISES

__all__ = ["DISCUSSION", "EXERCISES"]

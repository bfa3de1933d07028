"""Exercises of notebook 00: its entry check."""

from nl_course.exercises.ex00.core import DISCUSSION, QUESTIONS, answer, entry_check, questions, verdict

__all__ = ["DISCUSSION", "QUESTIONS", "answer", "entry_check", "questions", "verdict"]

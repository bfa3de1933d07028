"""Memories with one part changed, for the lessons that ask what each part is worth. No memory needs this package."""

"""Scripts for the course's authors; run them from the repository's root as `python -m tools.NAME`."""

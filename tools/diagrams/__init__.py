"""The diagrams of the course, assets/diagrams/*.svg: `python -m tools.diagrams` draws them all anew."""

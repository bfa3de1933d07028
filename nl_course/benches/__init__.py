"""What the bench can measure. Each module has `rows() -> list[dict]`: a name, and figures with their units as keys."""

BENCHES = {
    "start": "import time of the package, beyond torch itself",
    "attention": "attention beside a bare SDPA layer with the same projections",
    "views": "how long each view takes to recompute and redraw, without a browser",
}

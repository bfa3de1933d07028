"""What the bench can measure. Each module has `rows() -> list[dict]`: a name, and figures with their units as keys."""

BENCHES = {
    "start": "import time of the package, beyond torch itself",
    "memories": "every local memory, and Titans' in depth: tokens/s, peak memory, decode time and state bytes",
    "attention": "attention beside a bare SDPA layer with the same projections",
    "views": "how long each view takes to recompute and redraw, without a browser",
    "ttt": "TTT layers beside a plain per-mini-batch autograd loop, as the authors' PyTorch code has it",
    "optimizers": "a step of each optimizer; M3 beside Muon, ours and torch's",
    "hope": "self-modifying Titans: chunks, reads, kinds",
    "e2e": "TTT-E2E's training step beside the same network without its inner loop, and decoding far into a text",
    "peers": "ours beside other people's layers, in the environment of `make peers`",
}

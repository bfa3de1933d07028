"""What lies in an accelerator's memory: weights once, a cache or a state for every user."""

from tools.diagrams.shapes import SMALL, Drawing


def budget() -> Drawing:
    """Two desks of the same size, one with caches and one with states."""
    drawing = Drawing("memory-budget", "What fills an accelerator's memory", height=498)
    drawing.alt = (
        "Two frames of the same height side by side, each with the model's weights at the bottom and a strip kept "
        "free at the top. Left, three users with stacks of keys and values of different heights, one of which "
        "nearly fills the frame. Right, three users with equal small states, and room above them. Below: caches "
        "outweigh the weights beyond users times tokens equal to weights by cache per token, in bytes."
    )
    for x, name in ((10, "caches that grow"), (206, "states of fixed size")):
        drawing.text(x + 92, 48, name, anchor="middle", bold=True, size=SMALL)
        drawing.box(x, 62, 184, 300, frame=True)
        drawing.box(x + 10, 70, 164, 28, "kept free", faint=True, size=SMALL)
        drawing.box(x + 10, 262, 164, 92, "weights\nonce for all users,\nread at every step", size=SMALL)
    # Users' caches: as tall as what each has read.
    floor = 254
    for number, height in enumerate((44, 132, 76)):
        x = 20 + 56 * number
        rows = height // 11
        drawing.grid(x, floor - height, 24, height, 1, rows, "k")
        drawing.grid(x + 24, floor - height, 24, height, 1, rows, "v")
        top = floor - height
        if top - 20 > 104:
            drawing.arrow((x + 24, top - 4), (x + 24, top - 24), symbol="k")
    for number in range(3):
        x = 216 + 56 * number
        drawing.grid(x, floor - 44, 48, 44, 4, 4, "W")
    drawing.text(298, 130, "room for more users", size=SMALL, anchor="middle", symbol="quiet")
    rows = (
        (10, "{k} and {v} per token and user,\nall read at every step"),
        (206, "a state per user, read\nand written at every step"),
    )
    for x, words in rows:
        drawing.text(x + 92, 382, words, size=SMALL, anchor="middle")
    said = "Caches outweigh the weights beyond"
    drawing.text(200, 426, said, size=SMALL, anchor="middle")
    formula = "users × tokens = weights / cache per token (bytes)"
    drawing.text(200, 446, formula, size=SMALL, anchor="middle", bold=True)
    drawing.text(200, 474, "A state is smaller than a cache only for long texts.", size=SMALL, anchor="middle")
    return drawing

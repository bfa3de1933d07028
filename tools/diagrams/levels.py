"""Levels with clocks: the continuum, the block of HOPE, and TTT-E2E."""

from itertools import pairwise

from tools.diagrams.shapes import SMALL, Drawing

CELL = 19  # from one token of the text to the next
FIRST = 84  # where the text begins


def continuum() -> Drawing:
    """Levels and their clocks along a text: when each learns, from what, and how long its weights stay."""
    drawing = Drawing("continuum", "Levels with clocks, along a text", height=452)
    drawing.alt = (
        "Sixteen tokens and their losses above three rows of blocks. Level 1 has four blocks of 4 tokens, level 2 "
        "two of 8, level 3 one of 16; within a block the weights stay. At each gap a dashed arrow brings the "
        "gradient of the losses down, after token 8 to levels 1 and 2, after token 16 to all three. A solid arrow "
        "to the next block is the write. A last row never changes."
    )
    for number, letter in enumerate("my code is 7214."):
        drawing.box(FIRST + CELL * number, 40, CELL - 2, 22, letter.strip(), size=SMALL)
    drawing.text(12, 51, "tokens", size=SMALL)
    drawing.text(12, 85, "losses", size=SMALL)
    drawing.grid(FIRST, 78, 16 * CELL - 1.5, 14, 16, 1, "error")

    rows = (("level 1", 4, 140), ("level 2", 8, 212), ("level 3", 16, 284))
    for name, chunk, y in rows:
        drawing.text(12, y + 9, name, size=SMALL, bold=True)
        drawing.text(12, y + 27, f"chunk {chunk}", size=SMALL, symbol="quiet")
        width = chunk * CELL
        blocks = []
        for number in range(16 // chunk):
            words = f"{{W}} {number}" if number else "{W} start"
            blocks.append(drawing.box(FIRST + number * width, y, width - 15, 38, words, symbol="W", size=SMALL))
        for before, after in pairwise(blocks):
            drawing.arrow(before.right(), after.left(), symbol="W", thick=2.2)
    # After 4, 8 and 12 tokens: the gradient of the chunk's losses comes down the gap to all levels that are due.
    ends = {4: 1, 8: 2, 12: 1, 16: 3}
    for tokens, due in ends.items():
        x = FIRST + tokens * CELL - 7.5
        for _, chunk, y in rows[:due]:
            start = 96 if chunk == 4 else y - 53
            drawing.arrow((x, start), (x, y + 12), symbol="error", dashed=True)
    drawing.text(12, 354, "never", size=SMALL, bold=True)
    drawing.box(FIRST, 340, 16 * CELL - 15, 28, "weights as training left them", size=SMALL)
    drawing.arrow((14, 394), (56, 394), symbol="error", dashed=True)
    drawing.text(66, 394, "the {error:gradient} of a chunk's losses, taken when its", size=SMALL)
    drawing.text(66, 410, "last target arrives", size=SMALL)
    drawing.arrow((14, 434), (56, 434), symbol="W", thick=2.2)
    drawing.text(66, 434, "the write: one step, then constant for a chunk", size=SMALL)
    return drawing


def hope_block() -> Drawing:
    """A block of HOPE: a memory that writes its own rule, then levels with clocks."""
    drawing = Drawing("hope-block", "A block of HOPE", height=560)
    drawing.alt = (
        "A column from top to bottom: a self-modifying memory, which holds memories of key, value, step and "
        "retention beside W, then three MLPs with chunks of 16, 64 and 256 tokens. A residual path goes round "
        "each of the four. Dashed arrows from the right say who learns from what: the memory from its own error "
        "inside the layer, the three levels from the model's loss on the next token, summed over their own chunk."
    )
    x = 20
    top = drawing.box(x, 42, 210, 26, "h, one row per token")
    memory = drawing.box(x, 94, 210, 118, symbol="W", new=True)
    drawing.text(x + 105, 108, "self-modifying memory", size=SMALL, anchor="middle", bold=True, inside=memory)
    for number, words in enumerate(("{k}", "{v}", "{W}")):
        drawing.box(x + 10 + 65 * number, 120, 60, 24, words, symbol="W", size=SMALL)
    for number, words in enumerate(("step", "retention")):
        drawing.box(x + 10 + 97 * number, 150, 93, 24, words, symbol="W", size=SMALL)
    said = "five memories, each written"
    drawing.text(x + 105, 186, said, size=SMALL, anchor="middle", inside=memory)
    drawing.text(x + 105, 202, "toward its own target", size=SMALL, anchor="middle", inside=memory)
    drawing.arrow(top.bottom(), memory.top())
    sums = [drawing.box(x + 95, 232, 20, 20, "+", size=SMALL)]
    drawing.arrow(memory.bottom(), sums[0].top(), symbol="W")
    boxes = []
    for number, chunk in enumerate((16, 64, 256)):
        y = 272 + 84 * number
        level = drawing.box(x, y, 210, 32, f"level {number + 1}: MLP, chunk {chunk}", symbol="W", size=SMALL)
        drawing.arrow(sums[-1].bottom(), level.top())
        sums.append(drawing.box(x + 95, y + 44, 20, 20, "+", size=SMALL))
        drawing.arrow(level.bottom(), sums[-1].top(), symbol="W")
        boxes.append(level)
    # Residual paths: each begins behind the sum before it.
    starts = [(x + 105, 78), *((x + 105, plus.bottom()[1] + 8) for plus in sums[:-1])]
    for (start, y), plus in zip(starts, sums):
        drawing.arrow((start, y), (9, y), (9, plus.left()[1]), plus.left(), thick=1.4)
    drawing.arrow(sums[-1].bottom(), (sums[-1].bottom()[0], 532))
    drawing.text(x + 124, 526, "next block", size=SMALL, symbol="quiet")

    own = drawing.box(262, 130, 124, 46, "its own {error}, in\nthe memory", size=SMALL, symbol="error")
    drawing.arrow(own.left(), memory.right(58 / 118), symbol="error", dashed=True)
    loss = drawing.box(262, 262, 124, 220, symbol="error")
    lines = "the model's\nloss on the\nnext token,\nsummed over\nthe chunk of\neach level"
    drawing.text(324, 330, lines, size=SMALL, anchor="middle", inside=loss)
    for level in boxes:
        drawing.arrow((262, level.right()[1]), level.right(), symbol="error", dashed=True)
    drawing.text(324, 216, "dashed: who\nlearns from what", size=SMALL, anchor="middle", symbol="quiet")
    return drawing


def end_to_end() -> Drawing:
    """TTT-E2E: a few MLPs of a transformer go on training on the text."""
    drawing = Drawing("ttt-e2e", "TTT-E2E: train on what you read", height=520)
    drawing.alt = (
        "A chunk of text goes through the first blocks, which are fixed, and through the last quarter of the "
        "blocks: window attention, a fast MLP W drawn thick, and a fixed MLP. 2, predict: a guess for each next "
        "token. 3, error: the mean loss of the chunk. 4, write: one clipped step of SGD changes W alone. 5, read: "
        "the next chunk is read with the new W."
    )
    chunk = drawing.box(20, 42, 220, 28, "one chunk of the text")
    low = drawing.box(20, 102, 220, 64)
    drawing.text(130, 118, "first blocks, fixed", size=SMALL, anchor="middle", bold=True, inside=low)
    drawing.text(130, 142, "window attention, MLP", size=SMALL, anchor="middle", inside=low)
    high = drawing.box(20, 198, 220, 132)
    drawing.text(130, 213, "last quarter of the blocks", size=SMALL, anchor="middle", bold=True, inside=high)
    window = drawing.box(34, 228, 192, 24, "window attention, fixed", size=SMALL)
    fast = drawing.box(34, 262, 192, 26, "fast MLP {W}", size=SMALL, symbol="W", new=True)
    fixed = drawing.box(34, 298, 192, 24, "MLP, fixed", size=SMALL)
    drawing.arrow(window.bottom(), fast.top())
    drawing.arrow(fast.bottom(), fixed.top(), symbol="W")
    guesses = drawing.box(20, 362, 220, 28, "a guess for each next token")
    loss = drawing.box(20, 422, 220, 30, "mean loss of the chunk", symbol="error")
    for before, after in ((chunk, low), (low, high), (high, guesses), (guesses, loss)):
        drawing.arrow(before.bottom(), after.top())
    drawing.step(1, 150, 86, "project")
    drawing.step(2, 150, 346, "predict")
    drawing.step(3, 150, 406, "error")

    step = drawing.box(276, 352, 112, 100, "one step of\nSGD, clipped,\non {W} alone", symbol="W", size=SMALL)
    drawing.arrow(loss.right(), (276, loss.right()[1]), symbol="error", dashed=True)
    drawing.arrow(step.top(), (step.top()[0], 275), fast.right(), symbol="W", thick=2.4)
    drawing.step(4, 254, 338, "write")
    drawing.step(5, 262, 52, "read")
    drawing.text(253, 74, "the next chunk, with\nthe new {W}", size=SMALL)
    said = "Scored first, learned from afterwards: the step comes\nwhen all guesses of the chunk have been counted."
    drawing.text(20, 480, said, size=SMALL, symbol="quiet")
    return drawing

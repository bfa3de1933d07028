"""All diagrams of the course, in the order in which it shows them."""

from tools.diagrams import attention, budget, learning, levels, loops, wirings
from tools.diagrams.shapes import Drawing


def drawings() -> list[Drawing]:
    """Every drawing, made anew."""
    machines = [learning.machine(kind) for kind in learning.KINDS]
    clocked = [levels.continuum(), levels.hope_block(), levels.end_to_end()]
    return [attention.attention(), budget.budget(), *machines, loops.loops(), wirings.wirings(), *clocked]

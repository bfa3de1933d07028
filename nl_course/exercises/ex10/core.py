"""Exercises of notebook 10: a command read (10.2), the mean over ranks (10.4); the others in memory.py and
resume.py."""

import torch

from nl_course.exercises.ex10.memory import MEMORY
from nl_course.exercises.ex10.resume import RESUME
from nl_course.exercises.framework.engine import Exercise, Wrong
from nl_course.exercises.framework.properties import Rng, compare, equals, holds, pure

# ------------------------------------------------------------------------------- 10.2 what a command trains


def draw_command(rng: Rng):
    """1 to 4 nodes, 1 to 8 processes on each, rows that `accumulate` (1, 2, 4) divides, a length, 10 to 500 steps."""
    nodes, per_node, accumulate = rng.whole(1, 4), rng.pick((1, 2, 4, 8)), rng.pick((1, 2, 4))
    rows = rng.whole(1, 4) * accumulate
    return nodes, per_node, rows, accumulate, rng.pick((128, 512, 2048)), rng.whole(10, 500)


def by_hand(nodes, per_node, rows, accumulate, length, steps):
    """Processes, rows per step, tokens in all and rows at once, straight from the task."""
    readers = per_node * nodes
    return readers, rows * readers, rows * readers * length * steps, rows // accumulate


@holds("one process, one micro-batch: the batch is its rows", hint=1)
def alone(answer, rng):
    """Catches a factor that should be 1 here: one process takes its rows in one go."""
    _, _, rows, _, length, steps = draw_command(rng)
    compare((1, rows, rows * length * steps, rows), answer(1, 1, rows, 1, length, steps))


@holds("twice the machines: twice the batch and the tokens, the same rows at once", hint=2)
def machines(answer, rng):
    """Catches nodes that are left out, or that change the rows of one process."""
    nodes, *rest = draw_command(rng)
    one, two = (tuple(answer(n, *rest)) for n in (nodes, 2 * nodes))
    compare((2 * one[0], 2 * one[1], 2 * one[2], one[3]), two)


@holds("more micro-batches change the rows at once and nothing else", hint=2)
def micro_batches(answer, rng):
    """Catches micro-batches counted as more data. They only cut the same rows into parts."""
    nodes, per_node, rows, _, length, steps = draw_command(rng)
    one, four = (tuple(answer(nodes, per_node, 4 * rows, n, length, steps)) for n in (1, 4))
    compare((*one[:3], one[3] // 4), four)


command_equals = equals("all four numbers", draw_command, by_hand, hint=3)


def solution_command(nodes, per_node, rows, accumulate, length, steps):
    """P = nodes * per_node, B = rows P, tokens B length steps, rows at once rows / accumulate."""
    processes = nodes * per_node
    batch = rows * processes
    return processes, batch, batch * length * steps, rows // accumulate


def wrong_command_one_machine(nodes, per_node, rows, accumulate, length, steps):
    """Counts one node's processes alone."""
    return per_node, rows * per_node, rows * per_node * length * steps, rows // accumulate


def wrong_command_accumulates(nodes, per_node, rows, accumulate, length, steps):
    """Multiplies the batch by the micro-batches, as if `rows` were the rows of one of them."""
    processes = nodes * per_node
    batch = rows * processes * accumulate
    return processes, batch, batch * length * steps, rows


def wrong_command_whole_batch(nodes, per_node, rows, accumulate, length, steps):
    """Takes `rows` for the whole batch, to be shared by all processes."""
    processes = nodes * per_node
    return processes, rows, rows * length * steps, rows // accumulate


COMMAND = Exercise(
    id="10.2",
    title="what a command trains",
    aim="To read off a launch line what reaches the optimizer in one step, and what one device must hold for it.",
    task="""
A run is started on `nodes` machines with `torchrun --nnodes N --nproc-per-node G`. Every process reads `rows` rows of
`length` tokens a step, in `accumulate` micro-batches of equal size, one after the other; gradients of all processes and
micro-batches make one step of the optimizer.

Write `what_it_trains(nodes, per_node, rows, accumulate, length, steps)`. (The course's own `--batch-size` counts the
rows of all processes together; many other programs count per process, as here.)

* All six are whole numbers; `rows` is a multiple of `accumulate`.
* The result, four whole numbers: how many processes there are; rows a step, all processes together; tokens in the whole
  run; and rows that one device holds activations for at once.""",
    stub='''
def what_it_trains(nodes, per_node, rows, accumulate, length, steps):
    """-> processes, rows a step, tokens of the run, rows on one device at once"""
    ...
''',
    properties=(alone, machines, micro_batches, command_equals),
    hints=(
        "torchrun starts `per_node` processes on each machine, and each of them reads its own rows.",
        "Machines multiply rows. Micro-batches only divide them in time: the batch stays, what is held shrinks.",
        "processes = nodes * per_node; batch = rows * processes; tokens = batch * length * steps; rows // accumulate.",
    ),
    solution=solution_command,
    wrong=(
        Wrong(
            wrong_command_one_machine,
            "Counts the processes of one machine. On several the batch grows silently, and the rate no longer fits.",
            machines.name,
        ),
        Wrong(
            wrong_command_accumulates,
            "Takes micro-batches for further rows. Programs differ here: read whether the batch is before or after.",
            micro_batches.name,
        ),
        Wrong(
            wrong_command_whole_batch,
            "Leaves the batch of one process standing for all; that is right only where the rows are shared out.",
            machines.name,
        ),
    ),
)

# ------------------------------------------------------------------------------- 10.4 the mean over ranks


def draw_ranks(rng: Rng):
    """Gradients (n, size) of 2 to 4 ranks with 1 to 9 targets each, the first with 9 more; size 2 to 5."""
    ranks, size = rng.whole(2, 4), rng.whole(2, 5)
    counts = [rng.whole(1, 9) for _ in range(ranks)]
    counts[0] += 9  # never equal
    return [rng.normal(n, size) for n in counts], size


def mean_of_all(parts, size):
    """The mean over all targets of all ranks, (size,), as one process would take it."""
    return torch.cat(parts).mean(0)


@holds("ranks with equally many targets: the mean of their means is right too", hint=1)
def equal_counts(answer, rng):
    """Catches a sum: with four targets on each rank every kind of mean is right."""
    parts = [rng.normal(4, 3) for _ in range(3)]
    compare(mean_of_all(parts, 3), answer(parts, 3))


@holds("a rank without any target counts for nothing", hint=2)
def an_empty_rank(answer, rng):
    """Catches a mean of means. A rank with no rows would drag it towards 0."""
    parts, size = draw_ranks(rng)
    compare(mean_of_all(parts, size), answer([*parts, rng.normal(0, size)], size))


@holds("nobody has a target: the gradient is 0, not a division by 0", hint=3)
def no_targets(answer, rng):
    """Catches a division by a count of 0."""
    compare(torch.zeros(3, dtype=torch.float64), answer([rng.normal(0, 3), rng.normal(0, 3)], 3))


ranks_equal = equals("each target counts once, wherever it was read", draw_ranks, mean_of_all, hint=2)


def solution_ranks(parts, size):
    """The sum of all gradients over the sum of all counts, (size,), the count at least 1."""
    total, count = torch.zeros(size, dtype=parts[0].dtype), 0
    for gradients in parts:  # the two sums are what crosses the network
        total, count = total + gradients.sum(0), count + len(gradients)
    return total / max(count, 1)


def wrong_ranks_mean_of_means(parts, size):
    """Averages the ranks' means, as DDP does by itself."""
    means = [gradients.sum(0) / max(len(gradients), 1) for gradients in parts]
    return torch.stack(means).mean(0)


def wrong_ranks_skips_empty(parts, size):
    """Averages the means of the ranks that have targets."""
    means = [gradients.mean(0) for gradients in parts if len(gradients)]
    return torch.stack(means).mean(0) if means else torch.zeros(size, dtype=torch.float64)


def wrong_ranks_sum(parts, size):
    """Leaves out the division."""
    return torch.cat(parts).sum(0)


RANKS = Exercise(
    id="10.4",
    title="the mean over ranks that read unequally",
    aim="To see that averaging averages weighs targets unequally as soon as ranks have different numbers of them.",
    task="""
Some targets are not asked for (-100), so that ranks have different numbers of targets in a step. `parts` has a tensor
for every rank: the gradient of each of its targets, (n, size), where n differs from rank to rank and may be 0. A single
process with the whole batch would step along the mean over *all* targets.

Write `over_ranks(parts, size)`. A rank may send a sum and a count, nothing else.

* `parts` a list of tensors (n, size), float64; `size` a whole number.
* The result: the mean gradient (size,); zeros where nobody has a target.""",
    stub='''
def over_ranks(parts, size):
    """-> the gradient that one process would have found, (size,)"""
    ...
''',
    properties=(
        equal_counts,
        an_empty_rank,
        ranks_equal,
        no_targets,
        pure("the inputs are left as they were", draw_ranks, hint=1),
    ),
    hints=(
        "The mean of means is right only where all ranks have equally many. Add up first, divide once.",
        "Two sums go over the network: that of the gradients and that of the counts. An empty rank adds 0 to both.",
        "total = sum of gradients.sum(0), count = sum of len(gradients); return total / max(count, 1).",
    ),
    solution=solution_ranks,
    wrong=(
        Wrong(
            wrong_ranks_mean_of_means,
            "What averaging gradients does by itself: a target on a rank with few of them counts for more.",
            an_empty_rank.name,
        ),
        Wrong(
            wrong_ranks_skips_empty,
            "Leaves empty ranks out, and still weighs a rank with two targets like a rank with twenty.",
            an_empty_rank.name,
        ),
        Wrong(
            wrong_ranks_sum,
            "A sum: the step then grows with the number of ranks and of targets, and with it the rate one needs.",
            equal_counts.name,
        ),
    ),
)

# ------------------------------------------------------------------------------- what the notebook loads

EXERCISES = (RESUME, COMMAND, MEMORY, RANKS)

DISCUSSION = (
    (
        "Your estimate was off by some factor. Which part of it was counted, which was measured, and which was "
        "assumed, and which of these would you trust on a machine that you do not have?",
        "Parameters, tokens and operations are counted and hold on any machine. The speed was measured here over a few "
        "steps and says little about another machine. A data sheet's peak is exact and the share of it that is reached "
        "is assumed; for a memory that goes chunk by chunk through small matrices the share is a guess over more than "
        "a factor of ten. On a machine that you do not have, trust the counts, and give the time as a range that says "
        "so.",
    ),
    (
        "Two runs have the same loss after the same steps. One took three times as long and held half the memory. "
        "Which is better, and what would you have to fix beforehand for the question to have an answer?",
        "Nothing follows from the loss alone. One has to say what is scarce: hours of a device, its memory, tokens, or "
        "the cost of serving afterwards, where the state's bytes count and training time does not. Equal parameters, "
        "equal tokens, equal operations and equal hours give four different rankings, and each is honest if it is "
        "named before the runs are made.",
    ),
    (
        "The whole course compared small models on two cores. Which of its eleven sentences do you expect to hold for "
        "a model a thousand times as large, which may not, and what is the cheapest measurement that would tell?",
        "Sentences about what is kept, read and written follow from the algebra and hold at every size: bytes of a "
        "cache, one write as one step, half-lives, clocks. Those about what training finds, such as which part finds "
        "the needle, what freezing costs and who leads on the frontier, were measured on small models and may turn. "
        "The cheapest test is a ladder of sizes with the same recipe, three seeds each, to see whether the order "
        "changes along it.",
    ),
)

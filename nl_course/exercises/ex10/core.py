"""Exercises of notebooks 10 and 10b: what a command trains (10.2), the mean over ranks (10.4). The others stand in
memory.py and resume.py."""

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
    aim="Read from a command what reaches the optimizer in one step, and what one device must hold for it.",
    task="""
`torchrun` starts a run on `nodes` machines, with `per_node` processes on each. At each step every process reads
`rows` rows of `length` tokens, in `accumulate` equal parts (*micro-batches*), one after the other. The gradients of
all processes and micro-batches together make one step of the optimizer.

Write `what_it_trains(nodes, per_node, rows, accumulate, length, steps)`. All six are whole numbers, and `rows` is a
multiple of `accumulate`. (The course's own `--batch-size` counts the rows of all processes together. Many programs
count per process, as here.)

* Return four whole numbers: the number of processes; the rows per step, over all processes; the tokens of the whole
  run; and the rows for which one device holds activations at a time.""",
    stub='''
def what_it_trains(nodes, per_node, rows, accumulate, length, steps):
    """-> processes, rows a step, tokens of the run, rows on one device at once"""
    ...
''',
    properties=(alone, machines, micro_batches, command_equals),
    hints=(
        "torchrun starts `per_node` processes on each machine. Each process reads rows of its own.",
        "More machines read more rows. Micro-batches cut the same rows into parts, so one device holds fewer at once.",
        "processes = nodes * per_node; batch = rows * processes; tokens = batch * length * steps; rows // accumulate.",
    ),
    solution=solution_command,
    wrong=(
        Wrong(
            wrong_command_one_machine,
            "This counts the processes of one machine. With several machines the batch is larger than it says.",
            machines.name,
        ),
        Wrong(
            wrong_command_accumulates,
            "This counts micro-batches as further rows. Here `rows` already contains all micro-batches of a process.",
            micro_batches.name,
        ),
        Wrong(
            wrong_command_whole_batch,
            "This takes the rows of one process for those of all. Here each process reads `rows` rows of its own.",
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
    """Catches a mean of means. A rank with no rows would drag it toward 0."""
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
    aim="See that a mean of means weighs targets unequally when ranks have different numbers of them.",
    task="""
Some targets do not count (they are marked -100). So *ranks*, the processes of a run, have different numbers of
targets in a step. `parts` has one tensor per rank, with one gradient per target: (n, size). The number n differs from
rank to rank and may be 0. A single process with the whole batch would step along the mean over *all* targets.

Write `over_ranks(parts, size)`. Each rank may send one sum and one count, and nothing else.

* `parts` is a list of tensors (n, size), float64; `size` is a whole number.
* Return the mean gradient, (size,). If no rank has a target, return zeros.""",
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
        "The mean of means is right only if all ranks have equally many targets. Add up first, then divide once.",
        "Each rank sends the sum of its gradients and its count. A rank without targets adds 0 to both.",
        "total = sum of gradients.sum(0), count = sum of len(gradients); return total / max(count, 1).",
    ),
    solution=solution_ranks,
    wrong=(
        Wrong(
            wrong_ranks_mean_of_means,
            "This averages the means of the ranks. A target on a rank with few targets then counts for more.",
            an_empty_rank.name,
        ),
        Wrong(
            wrong_ranks_skips_empty,
            "This leaves empty ranks out, but it still gives a rank with two targets the weight of one with twenty.",
            an_empty_rank.name,
        ),
        Wrong(
            wrong_ranks_sum,
            "This is a sum, so the step grows with the number of targets.",
            equal_counts.name,
        ),
    ),
)

# ------------------------------------------------------------------------------- what the notebook loads

EXERCISES = (RESUME, COMMAND, MEMORY, RANKS)

DISCUSSION = (
    (
        "Your estimate was off by some factor. Which part of it was counted, which was measured, and which was "
        "assumed? Which would you trust for a machine that you do not have?",
        "Parameters, tokens and operations are counted, and hold on any machine. The speed was measured here over a "
        "few steps, and it says little about another machine. The peak of a data sheet is exact, but the share of it "
        "that training reaches is assumed. For a memory that goes chunk by chunk through small matrices, this share is "
        "uncertain by more than a factor of ten. For a machine that you do not have, trust the counts. Give the time "
        "as a range, and say what it assumes.",
    ),
    (
        "Two runs reach the same loss after equal steps. One took three times as long and held half the memory. "
        'What must you fix beforehand so that "which is better?" has an answer?',
        "Nothing follows from the loss alone. You must say what is scarce: hours of a device, its memory, tokens, or "
        "the cost of serving afterward. In serving, the bytes of the state count and training time does not. Equal "
        "parameters, equal tokens, equal operations and equal hours can give four different rankings. Each is honest "
        "if you name it before you make the runs.",
    ),
    (
        "Which of the course's eleven sentences do you expect to hold for a model a thousand times as large? Which "
        "may not? What is the cheapest measurement that would tell?",
        "Sentences about what is kept, read and written follow from the algebra. They hold at every size: bytes of a "
        "cache, a write as a step of training, half-lives, clocks. Other sentences are about what training finds: "
        "which part finds the needle, what freezing costs, and who leads on the frontier. These were measured on small "
        "models and may change. The cheapest test is a series of sizes with one recipe and three seeds each, to see "
        "whether the order changes.",
    ),
)

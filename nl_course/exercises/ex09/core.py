"""Exercises of notebook 09: the load of a matrix (9.3), break-even with writes (9.4), the least bits (9.2); the
others in hybrid.py."""

import math

from nl_course.exercises.ex09.hybrid import HYBRID, PAIRED
from nl_course.exercises.framework.engine import Exercise, Wrong
from nl_course.exercises.framework.properties import Rng, compare, equals, holds
from nl_course.scaling.information import least_bits as bound

# ------------------------------------------------------------------------------- 9.3 the load of a matrix


def draw_load(rng: Rng):
    """Width 4 to 64, an error from 1/8 to 3, 2 to 4,096 choices, numbers of 8, 16 or 32 bits."""
    return rng.whole(4, 64), rng.whole(1, 24) / 8, 2 ** rng.whole(1, 12), rng.pick((8, 16, 32))


@holds("one pair is read without error, whatever the width", hint=1)
def one_pair(answer, rng):
    """Catches crosstalk counted from n pairs instead of the n - 1 others."""
    width, _, choices, bits = draw_load(rng)
    compare(1, answer(width, 0.0, choices, bits)[0])


@holds("with an error of 1, as large as the value itself, width + 1 pairs fit", hint=1)
def error_of_one(answer, rng):
    """Catches pairs that grow with the number of entries instead of the width."""
    width, _, choices, bits = draw_load(rng)
    compare(width + 1, answer(width, 1.0, choices, bits)[0])


@holds("twice the bits per number halve the share", hint=2)
def halves(answer, rng):
    """Catches a share that forgets how many bits a number has."""
    width, error, choices, bits = draw_load(rng)
    compare(answer(width, error, choices, bits)[1] / 2, answer(width, error, choices, 2 * bits)[1])


def load_by_hand(width, error, choices, bits):
    """Pairs from the task's inequality, and their bits over the matrix's bits."""
    fit = math.floor(error * width) + 1
    return fit, fit * math.log2(choices) / bits / width**2


load_equals = equals("pairs and share are right", draw_load, load_by_hand, hint=3)


def solution_load(width, error, choices, bits):
    """n = 1 + floor(error width), and n log2(choices) / (bits width²)."""
    pairs = 1 + int(error * width)
    return pairs, pairs * math.log2(choices) / (bits * width * width)


def wrong_load_one_short(width, error, choices, bits):
    """Forgets that the first pair has nobody to disturb it."""
    pairs = int(error * width)
    return pairs, pairs * math.log2(choices) / (bits * width * width)


def wrong_load_square(width, error, choices, bits):
    """Lets the pairs grow with width², as the numbers in the matrix do."""
    pairs = 1 + int(error * width * width)
    return pairs, pairs * math.log2(choices) / (bits * width * width)


def wrong_load_numbers(width, error, choices, bits):
    """Divides by the count of numbers instead of their bits."""
    pairs = 1 + int(error * width)
    return pairs, pairs * math.log2(choices) / (width * width)


def wrong_load_nats(width, error, choices, bits):
    """Takes the natural logarithm for bits."""
    pairs = 1 + int(error * width)
    return pairs, pairs * math.log(choices) / (bits * width * width)


LOAD = Exercise(
    id="9.3",
    title="the load of a matrix memory",
    aim="To see that a matrix holds pairs in proportion to its width, and far less information than it has bits.",
    task="""
Hebb's rule writes n pairs with random unit keys into a matrix, `width` x `width`. The squared error of a read is
expected to be (n - 1) / width. Each value is one of `choices` equally likely ones, so a pair carries
log2(choices) bits. The matrix is kept in numbers of `bits` bits.

Write `matrix_load(width, error, choices, bits)`. It returns the most pairs whose expected squared error is at most
`error`, and which share of the matrix's own bits the information in these pairs is.

* `width`, `choices` and `bits` are whole numbers of at least 1, `error` is a number of at least 0.
* The result: the number of pairs (a whole number) and the share (a number).""",
    stub='''
def matrix_load(width, error, choices, bits):
    """-> pairs, share of the matrix's bits that they are"""
    ...
''',
    properties=(
        one_pair,
        error_of_one,
        halves,
        load_equals,
    ),
    hints=(
        "Solve (n - 1) / width <= error for n and round down. The first pair has nobody to disturb it.",
        "The matrix has width * width numbers, so it is kept in bits * width * width bits, whatever it holds.",
        "pairs = 1 + int(error * width); the share is pairs * math.log2(choices) / (bits * width * width).",
    ),
    solution=solution_load,
    wrong=(
        Wrong(
            wrong_load_one_short,
            "The crosstalk comes from the other n - 1 pairs: the first pair alone is read back exactly.",
            one_pair.name,
        ),
        Wrong(
            wrong_load_square,
            "Pairs grow with the width, not with the numbers in the matrix: each pair takes a whole direction of keys.",
            error_of_one.name,
        ),
        Wrong(
            wrong_load_numbers,
            "This is bits of information per number. A share of the matrix's bits must know how wide a number is kept.",
            halves.name,
        ),
        Wrong(
            wrong_load_nats,
            "The natural logarithm counts nats; a bit is the logarithm to base 2.",
            "pairs and share are right",
        ),
    ),
)

# ------------------------------------------------------------------------------- 9.4 break-even with writes


def draw_moved(rng: Rng):
    """A state of 50 to 400 tokens' bytes, 16 to 1,024 bytes per token, 1 to 3 reads, 0 to 3 writes, chunks up to 32."""
    per_token = 2 ** rng.whole(4, 10)
    return per_token * rng.whole(50, 400), per_token, rng.whole(1, 3), rng.whole(0, 3), rng.whole(1, 32)


@holds("a state that is only read breaks even where the cache has as many bytes, the new entry counted", hint=1)
def only_read(answer, rng):
    """Catches a break-even in size: the cache also writes the new entry."""
    state, per_token, _, _, chunk = draw_moved(rng)
    compare(state / per_token - 1, float(answer(state, per_token, 1, 0, chunk)))


@holds("in chunks of one token a write counts as much as a read", hint=2)
def write_counts(answer, rng):
    """Catches a write that is free or counted twice, in chunks of one token."""
    state, per_token, reads, writes, _ = draw_moved(rng)
    compare(float(answer(state, per_token, reads + writes, 0, 1)), float(answer(state, per_token, reads, writes, 1)))


@holds("the longer the chunk, the earlier the state breaks even", hint=2)
def longer_chunks(answer, rng):
    """Catches a write at every token: one per chunk costs half when the chunk is twice as long."""
    state, per_token, reads, _, chunk = draw_moved(rng)
    once, twice = (float(answer(state, per_token, reads, 1, length)) for length in (chunk, 2 * chunk))
    compare(state / chunk / 2 / per_token, once - twice)


def moved_by_hand(state, per_token, reads, writes, chunk):
    """The context at which a cache's entries, the new one with them, weigh as much as the traffic of one token."""
    return (state * reads * chunk + state * writes - per_token * chunk) / (per_token * chunk)


moved_equals = equals("the numbers are right", draw_moved, moved_by_hand, hint=3)


def solution_moved(state, per_token, reads, writes, chunk):
    """state (reads + writes / chunk) / per_token - 1, a number of tokens."""
    return state * (reads + writes / chunk) / per_token - 1


def wrong_moved_size_only(state, per_token, reads, writes, chunk):
    """Compares sizes, as notebook 02 does, instead of traffic."""
    return state / per_token


def wrong_moved_all_by_chunk(state, per_token, reads, writes, chunk):
    """Divides the reads by the chunk too, as if a chunk were answered at once."""
    return state * (reads + writes) / chunk / per_token - 1


def wrong_moved_no_chunk(state, per_token, reads, writes, chunk):
    """Counts the writes at every token, as if chunks saved nothing."""
    return state * (reads + writes) / per_token - 1


def wrong_moved_new_entry(state, per_token, reads, writes, chunk):
    """Forgets that the cache writes its new entry."""
    return state * (reads + writes / chunk) / per_token


MOVED = Exercise(
    id="9.4",
    title="break-even in bytes moved",
    aim="To see that a state which is written breaks even later in traffic than in size, and what chunks change.",
    task="""
To decode one token, attention reads its whole cache of T tokens and writes one entry. A memory of fixed size is read
`reads` times for every token and written `writes` times for every `chunk` tokens.

Write `break_even_moved(state, per_token, reads, writes, chunk)`: the T at which both move equally many bytes per
token, on average.

* `state`: bytes of the fixed state. `per_token`: bytes that the cache keeps per token.
* `reads` and `writes` are whole numbers of at least 0, `chunk` one of at least 1.
* The result: T, a number (it need not be whole).""",
    stub='''
def break_even_moved(state, per_token, reads, writes, chunk):
    """-> the context T at which cache and state move as many bytes per token"""
    ...
''',
    properties=(
        only_read,
        write_counts,
        longer_chunks,
        moved_equals,
    ),
    hints=(
        "The cache moves per_token * T bytes in and per_token out. Set that equal to what the fixed state moves.",
        "A token's share of a write that happens once per chunk is state / chunk. Reads happen at every token.",
        "per_token * (T + 1) = state * (reads + writes / chunk); solve for T.",
    ),
    solution=solution_moved,
    wrong=(
        Wrong(
            wrong_moved_size_only,
            "That is the break-even of sizes, as in notebook 02. It says what fits, not what moves.",
            only_read.name,
        ),
        Wrong(
            wrong_moved_all_by_chunk,
            "Reads cannot wait for the end of the chunk: in decoding, each token is answered before the next is known.",
            only_read.name,
        ),
        Wrong(
            wrong_moved_no_chunk,
            "This counts a write at every token. With chunks there is one write for all tokens of the chunk.",
            longer_chunks.name,
        ),
        Wrong(
            wrong_moved_new_entry,
            "The cache is written too: one entry per token. It is small, but it counts.",
            only_read.name,
        ),
    ),
)

# ------------------------------------------------------------------------------- 9.2 the least bits


def draw_bits(rng: Rng):
    """1 to 5,000 facts, 4 to 65,536 choices, a recall from 0.3 to 0.99."""
    return rng.whole(1, 5000), 2 ** rng.whole(2, 16), rng.number(0.3, 0.99)


@holds("all facts right takes log2(choices) bits per fact", hint=1)
def all_right(answer, rng):
    """Catches a logarithm to the wrong base, and a logarithm of 0."""
    facts, choices, _ = draw_bits(rng)
    compare(facts * math.log2(choices), float(answer(facts, choices, 1.0)))


@holds("guessing needs no bits", hint=2)
def guessing(answer, rng):
    """Catches bits for an answer that needs no state, at chance and at half of it."""
    facts, choices, _ = draw_bits(rng)
    compare(0.0, float(answer(facts, choices, 1 / choices)), 1e-6)
    compare(0.0, float(answer(facts, choices, 0.5 / choices)), 1e-6)


@holds("twice the facts need twice the bits", hint=1)
def in_proportion(answer, rng):
    """Catches a bound that is not linear in the facts. They are independent: none tells of another."""
    facts, choices, recall = draw_bits(rng)
    compare(2 * float(answer(facts, choices, recall)), float(answer(2 * facts, choices, recall)))


bits_equal = equals("the bound is right", draw_bits, bound, hint=3)


def solution_bits(facts, choices, recall):
    """N (log2 K - h(D) - D log2(K - 1)) with D = 1 - recall, and 0 at or below chance (K choices)."""
    if recall * choices <= 1:
        return 0.0
    wrong = 1 - recall
    surprise = sum(-p * math.log2(p) for p in (recall, wrong) if p > 0)
    return facts * (math.log2(choices) - surprise - wrong * math.log2(choices - 1))


def wrong_bits_share(facts, choices, recall):
    """Charges the known share of facts in full, and nothing for the rest."""
    return facts * recall * math.log2(choices)


def wrong_bits_which(facts, choices, recall):
    """Leaves out h(D), as if the state had to say which answers are wrong."""
    if recall * choices <= 1:
        return 0.0
    wrong = 1 - recall
    return facts * (math.log2(choices) - wrong * math.log2(choices - 1))


def wrong_bits_guessed(facts, choices, recall):
    """Uses the formula below chance too, where it rises again."""
    wrong = 1 - recall
    surprise = sum(-p * math.log2(p) for p in (recall, wrong) if p > 0)
    return facts * (math.log2(choices) - surprise - wrong * math.log2(choices - 1))


LEAST = Exercise(
    id="9.2",
    title="the least bits for so much recall",
    aim="To own the bound that no architecture escapes: recall of N random facts takes bits in proportion to N.",
    task="""
There are `facts` random facts. The answer to each is one of `choices` equally likely ones. A state alone must answer,
and on average the share `recall` of the answers must be right. How many bits must the state have at least? By Shannon's
rate-distortion function (1959), with D = 1 - recall, each fact takes

R = log2(choices) - h(D) - D log2(choices - 1),    h(D) = - D log2 D - (1 - D) log2(1 - D),

and 0 where the recall is no better than guessing, 1 / choices or less.

Write `least_bits(facts, choices, recall)`.

* `facts` and `choices` are whole numbers, `choices` at least 2. `recall` lies between 0 and 1, both included.
* The result: bits, a number.""",
    stub='''
def least_bits(facts, choices, recall):
    """-> bits that a state must have at least"""
    ...
''',
    properties=(
        all_right,
        guessing,
        in_proportion,
        bits_equal,
    ),
    hints=(
        "With recall 1 nothing may be lost: facts * log2(choices). Note that h(0) = h(1) = 0, though log2(0) is not.",
        "A guess is right once in `choices`. At and below that no bits are needed: return 0 without the formula.",
        "wrong = 1 - recall; h sums -p * math.log2(p) over p in (recall, wrong), p > 0; then the formula, times facts.",
    ),
    solution=solution_bits,
    wrong=(
        Wrong(
            wrong_bits_share,
            "This keeps a share of the facts and knows nothing of the rest. But guessing helps the rest a little, and "
            "most when there are few choices.",
            guessing.name,
        ),
        Wrong(
            wrong_bits_which,
            "This leaves out h(D): the state need not say which of the answers are wrong.",
            "the bound is right",
        ),
        Wrong(
            wrong_bits_guessed,
            "This is right above guessing. Below it the formula rises again, as if wrong answers were the aim.",
            guessing.name,
        ),
    ),
)

# ------------------------------------------------------------------------------- what the notebook loads

EXERCISES = (PAIRED, LEAST, LOAD, MOVED, HYBRID)

DISCUSSION = (
    (
        "Somebody says: this model has read a million books with a memory of fixed size. Which three questions would "
        "you ask before you believe that it knows them?",
        "How many bytes is the memory, and how many random facts could it hold at most (the bound in bits)? Which "
        "facts are asked, how long after they were read, and can they be guessed from the rest or from training? And "
        "what stands beside it: a window of the same bytes, a plain index on disk, the same model without the books.",
    ),
    (
        "A fixed state removes the growing part of the memory. Name two ways in which the world could still buy "
        "more fast memory. What would one have to measure to know?",
        "A state is kept per user and can be as large as weights: many users multiply it, like a cache. It is written "
        "as well as read, so its traffic can exceed that of a short cache. And what becomes cheap is used more: longer "
        "tasks, more agents. Measure which share of the memory trains and which serves, the lengths that servers see, "
        "how use answers to price, and how many caches can go before recall suffers.",
    ),
    (
        "Two models kept every byte in a whole cache, and one of them could no longer answer. What follows for "
        "claims about context windows?",
        "Keeping is not recalling. An advertised window says what is kept. A model is known to recall only at lengths "
        "where that was measured. Beyond its trained lengths the rotary model fails, and not for lack of bytes. For "
        "our comparison it means that a poor result of one trained model is no bound for its kind: training length, "
        "positions and steps are part of what is compared.",
    ),
)

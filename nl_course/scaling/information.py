"""How many bits a state must have for what it recalls: a bound that holds whatever the memory does.

A state of S bits can be in 2^S ways, so it cannot tell more than S bits apart. N facts, each one of V equally likely
answers, are N log2 V bits; to have a share of them right on the average takes by Shannon's rate-distortion function
(1959; Hamming distortion D = 1 - recall)

    R = log2 V - h(D) - D log2(V - 1)   bits a fact,   h(D) = - D log2 D - (1 - D) log2(1 - D),

and nothing where the recall is no better than a guess. So the bits grow in proportion to N, as Arora et al. prove for
the multi-query recall of any recurrent model (2024, Based, arXiv 2402.18668, theorem 3.1).
"""

import math

from nl_course.errors import CourseError, check_int, check_min


def least_bits(facts: int, choices: int, recall: float) -> float:
    """Bits that a state must have at least to answer the share `recall` of `facts` random facts, each one of `choices`
    equally likely answers, on the average."""
    check_int("facts", facts, 0)
    check_int("choices", choices, 2)
    if check_min("recall", recall, 0) > 1:
        raise CourseError(f"recall must be at most 1, not {recall}.")
    if recall * choices <= 1:
        return 0.0
    wrong = 1 - recall
    surprise = sum(-p * math.log2(p) for p in (recall, wrong) if p > 0)
    return facts * (math.log2(choices) - surprise - wrong * math.log2(choices - 1))


def most_recall(bits: float, facts: int, choices: int) -> float:
    """The share of random facts that a state of `bits` bits can answer at most: the inverse of `least_bits`."""
    check_int("facts", facts, 1)
    check_int("choices", choices, 2)
    check_min("bits", bits, 0)
    if bits >= least_bits(facts, choices, 1.0):
        return 1.0
    low, high = 1 / choices, 1.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if least_bits(facts, choices, middle) <= bits else (low, middle)
    return low

"""What grading comes to: one outcome per exercise."""

from dataclasses import dataclass

# How a verdict is called. From the best to the worst: where a learner handed in several notebooks with the same
# exercise, the best one counts.
VERDICTS = {
    "passed": "solved",
    "failed": "not yet",
    "refused": "not accepted",
    "empty": "not attempted",
    "unreadable": "cannot be read",
    "missing": "not handed in",
}


@dataclass(frozen=True)
class Outcome:
    """What became of one exercise: a verdict of VERDICTS, the words for the learner, the property that failed, and how
    many of the exercise's properties held before it was tried."""

    exercise: str
    verdict: str
    text: str
    fails: str = ""
    held: int = 0

    @property
    def points(self) -> int:
        """1 for a solved exercise, else 0."""
        return int(self.verdict == "passed")


@dataclass(frozen=True)
class Allowance:
    """What one answer may take: seconds, and bytes of memory beyond those of torch itself."""

    seconds: float
    memory: int


def best(outcomes: list[Outcome]) -> Outcome:
    """The one that counts among outcomes of the same exercise; the first one where several are as good."""
    order = list(VERDICTS)
    return min(outcomes, key=lambda outcome: order.index(outcome.verdict))

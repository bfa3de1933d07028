"""The small models that `nl-course record scaling` trained, as arrays."""

from dataclasses import dataclass
from functools import cache

import numpy as np

from nl_course.errors import CourseError
from nl_course.scaling.shapes import read_table


@dataclass(frozen=True)
class OwnRuns:
    """R runs: parameters (R,), tokens (R,), held-out loss (R,) in nats per byte, and its mean at every position
    of the context, by_position (R, T). `about` says how, when and on what they were made."""

    parameters: np.ndarray
    tokens: np.ndarray
    loss: np.ndarray
    by_position: np.ndarray
    about: dict

    @property
    def flops(self) -> np.ndarray:
        """Operations of training, 6 N D."""
        return 6 * self.parameters * self.tokens

    def where(self, chosen: np.ndarray) -> "OwnRuns":
        """Some of the runs. Raises CourseError if none is left."""
        if not np.any(chosen):
            raise CourseError("no recorded run is left; choose a wider range.")
        fields = (self.parameters, self.tokens, self.loss, self.by_position)
        return OwnRuns(*(f[chosen] for f in fields), self.about)

    def by_context(self) -> np.ndarray:
        """Mean loss if every token could see at most that many tokens' worth of context so far: the running mean
        of `by_position` (R, T), whose last column is the held-out loss of the whole window."""
        return np.cumsum(self.by_position, axis=1) / np.arange(1, self.by_position.shape[1] + 1)


@cache
def own_runs() -> OwnRuns:
    """The recorded runs. Raises CourseError if the recording is missing."""
    recording = read_table("runs/scaling.json")
    columns = {
        name: np.array([run[name] for run in recording["runs"]], dtype=float)
        for name in ("parameters", "tokens", "held_out_loss", "loss_by_position")
    }
    return OwnRuns(*columns.values(), recording["about"])

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
        return OwnRuns(
            parameters=self.parameters[chosen],
            tokens=self.tokens[chosen],
            loss=self.loss[chosen],
            by_position=self.by_position[chosen],
            about=self.about,
        )

    def by_context(self) -> np.ndarray:
        """Mean loss if every token could see at most that many tokens' worth of context so far: the running mean
        of `by_position` (R, T), whose last column is the held-out loss of the whole window."""
        return np.cumsum(self.by_position, axis=1) / np.arange(1, self.by_position.shape[1] + 1)


@cache
def own_runs() -> OwnRuns:
    """The recorded runs. Raises CourseError if the recording is missing."""
    recording = read_table("runs/scaling.json")

    def column(name: str) -> np.ndarray:
        """One number of every run, (runs,), in the recording's order."""
        return np.array([run[name] for run in recording["runs"]], dtype=float)

    return OwnRuns(
        parameters=column("parameters"),
        tokens=column("tokens"),
        loss=column("held_out_loss"),
        by_position=column("loss_by_position"),
        about=recording["about"],
    )

"""The curves of a run as TensorBoard reads them: `nl-course train --tensorboard DIR`, then `tensorboard --logdir DIR`.

The files are written by the library `tensorboard`, an extra that nothing else needs.
"""

from pathlib import Path
from types import TracebackType
from typing import Any

from nl_course.errors import CourseError
from nl_course.files import pip_install


class Curves:
    """Writes every number of a step's metrics into a folder of its own under `folder`, named after the run. A context
    manager: at its end the files are whole."""

    def __init__(self, folder: str, run: str):
        self.path = Path(folder) / run
        self._writer: Any = None

    def __call__(self, metrics: dict[str, Any]) -> None:
        """Adds the metrics of one whole step, by name."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            # A run that goes on does its last unsaved steps again: what stands there from this step on counts no more.
            self._writer = SummaryWriter(str(self.path), purge_step=metrics["step"])
        for name, value in metrics.items():
            if name != "step" and isinstance(value, (int, float)):
                self._writer.add_scalar(name, value, metrics["step"])

    def __enter__(self) -> "Curves":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()


def check_tensorboard() -> None:
    """Raises CourseError if the library is not installed."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        command = pip_install("tensorboard")
        raise CourseError(
            f"--tensorboard needs the library `tensorboard`, which is not installed; run `{command}`."
        ) from None

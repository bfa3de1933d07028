"""What several commands share: the device that an option names."""

from typing import TYPE_CHECKING

from nl_course.errors import CourseError, check_choice

if TYPE_CHECKING:  # `nl-course lab` opens without waiting for torch
    import torch


def device_named(name: str) -> "torch.device":
    """The device to compute on: cpu, cuda or mps; "auto" is a CUDA GPU where there is one, else the processor.

    Raises CourseError for another name, and for a device that this machine does not have.
    """
    import torch

    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    check_choice("device", name, ("auto", *available))
    if name == "auto":
        name = "cuda" if available["cuda"] else "cpu"
    if not available[name]:
        present = ", ".join(device for device, is_there in available.items() if is_there)
        raise CourseError(f"this machine has no device {name!r}; it has: {present}.")
    return torch.device(name)

"""What several commands read from their options: numbers, devices."""

import argparse

from nl_course.errors import CourseError, check_choice


def device_named(name: str):
    """The device to compute on; `auto` takes a CUDA GPU where there is one, else the processor."""
    import torch

    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    check_choice("device", name, ("auto", *there))
    name = ("cuda" if there["cuda"] else "cpu") if name == "auto" else name
    if not there[name]:
        found = ", ".join(device for device, here in there.items() if here)
        raise CourseError(f"the device {name!r} is not there on this machine; found: {found}.")
    return torch.device(name)


def number(kind: type):
    """A reader of options that says what it wanted: `--steps ten` is no whole number."""

    def read(text: str):
        try:
            return kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"must be a {'whole number' if kind is int else 'number'}, not {text!r}"
            ) from None

    return read

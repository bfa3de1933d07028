"""The one suite that every memory passes: the course's in the tests, a learner's by `check_memory("mine.py")`."""

from nl_course.suite.case import Broken, Case
from nl_course.suite.check import OwnMemory, Report, check_case, check_memory, copy_template, load_memory, registered
from nl_course.suite.devices import DEVICE_PROPERTIES, DeviceProperty
from nl_course.suite.properties import PROPERTIES, MemoryProperty

__all__ = [
    "DEVICE_PROPERTIES",
    "PROPERTIES",
    "Broken",
    "Case",
    "DeviceProperty",
    "MemoryProperty",
    "OwnMemory",
    "Report",
    "check_case",
    "check_memory",
    "copy_template",
    "load_memory",
    "registered",
]

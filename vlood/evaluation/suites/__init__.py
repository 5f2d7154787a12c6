"""Published benchmark protocols as data, and whether a folder of datasets fits them."""

from vlood.evaluation.suites.building import BuiltList, build_lists
from vlood.evaluation.suites.checking import SetStatus, SharedImages, check_suite, find_overlaps
from vlood.evaluation.suites.suite import Suite, SuiteSet, read_suite, suite_names

__all__ = [
    "BuiltList",
    "SetStatus",
    "SharedImages",
    "Suite",
    "SuiteSet",
    "build_lists",
    "check_suite",
    "find_overlaps",
    "read_suite",
    "suite_names",
]

"""Processes of draws: forked from one that has imported and compiled what commands need."""

import multiprocessing
from multiprocessing.context import ForkServerContext


def context() -> ForkServerContext:
    """Starts such processes by `Process(target=…)`."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(["tests.soak.warmed"])
    return found

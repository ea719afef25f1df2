"""Processes of draws: forked from one that has imported and compiled what commands need."""

import multiprocessing
from multiprocessing.context import ForkServerContext

MODULES = ["tests.soak.warmed"]
"""What that process imports when the first one is asked for; more may be added before."""


def context() -> ForkServerContext:
    """Starts such processes by `Process(target=…)`."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(MODULES)
    return found

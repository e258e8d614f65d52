"""Work shared among a few plain threads, for loops that hold no interpreter lock."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from ..errors import SacroplastyError

#: The variable that numba reads for the same purpose.
VARIABLE = "NUMBA_NUM_THREADS"


def thread_count(asked: int | None = None) -> int:
    """Threads to use: as asked for, else NUMBA_NUM_THREADS of the environment, else all processors of this process.

    Raises:
        SacroplastyError: for a number below one.
    """
    if asked is None:
        text = os.environ.get(VARIABLE)
        if text is None:
            return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if not text.strip().isdigit():
            raise SacroplastyError(f"{VARIABLE} is {text!r}; it must be a number of threads, 1 or more")
        asked = int(text)
    if asked < 1:
        raise SacroplastyError(f"{asked} threads cannot work; ask for 1 or more")
    return asked


def share(part: Callable[[int], None], count: int, threads: int) -> None:
    """Do parts 0 ... count - 1 in this thread and in helpers; each takes the next one when it is through.

    Raises:
        Exception: the first that a part raised; the other helpers end with the part they are at.
    """
    helpers_wanted = min(threads, count) - 1
    numbers = itertools.count()
    failed = False

    def work() -> None:
        nonlocal failed
        try:
            while not failed and (number := next(numbers)) < count:
                part(number)
        except BaseException:
            failed = True
            raise

    helpers = [_pool(threads).submit(work) for _ in range(helpers_wanted)]
    try:
        work()
    finally:
        for helper in helpers:
            # One that has not begun has nothing left to do, and waiting for a busy pool could take long.
            if not helper.cancel():
                helper.result()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(threads - 1, 1), thread_name_prefix="projector")

"""Conditions that another process brings about."""

import time
from collections.abc import Callable


def wait_for(condition: Callable[[], object], seconds: float = 400.0) -> None:
    """Return as soon as a condition holds.

    Args:
        condition: Function whose result is true or false.
        seconds: How long it may take.

    Raises:
        AssertionError: It did not hold in time.
    """
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds:.0f} s"
        time.sleep(0.02)

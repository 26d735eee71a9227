"""Work that can be done step by step, by whoever has something else to do in between. Pure.

Such work is a generator that yields after each step and returns what it found. A step of it takes some milliseconds, or
is one pass over a message that cannot be divided.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Final, TypeVar

T = TypeVar("T")

Steps = Generator[None, None, T]

LONG_BYTES: Final = 128 * 1024
"""A message up to here is looked at in one go, which takes a few milliseconds at most."""


def finished(steps: Steps[T]) -> T:
    """Take all the steps at once, and return what the last one found."""
    while True:
        try:
            next(steps)
        except StopIteration as last:
            found: T = last.value
            return found

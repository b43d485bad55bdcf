"""Fixtures of the tests of sweeps."""

from tests.sweep.studies import inline_workers

__all__ = ["inline_workers"]

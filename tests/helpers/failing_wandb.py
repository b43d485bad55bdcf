"""W&B's client, failing at once where the real one fails after it has waited for a server."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import wandb


@dataclass
class FailingClient:
    """What a client that reaches no server was asked for.

    Attributes:
        modes: Mode of every run that was to begin.
    """

    modes: list[str] = field(default_factory=list)


def fail_at_once(monkeypatch: pytest.MonkeyPatch) -> FailingClient:
    """Let every online run fail to begin, as with a server that does not answer; an offline one writes nothing.

    Args:
        monkeypatch: Undoes it after the test.
    """
    client, begin = FailingClient(), wandb.init

    def init(**given: Any) -> wandb.Run:
        client.modes.append(given["mode"])
        if given["mode"] == "online":
            raise wandb.errors.CommError("no answer")
        return begin(**given | {"mode": "disabled"})

    monkeypatch.setattr(wandb, "init", init)
    return client


def fail_in_mid_run(monkeypatch: pytest.MonkeyPatch, error: Exception) -> list[str]:
    """Let a run begin, and fail whenever it is used afterwards, as one whose service was killed.

    Args:
        monkeypatch: Undoes it after the test.
        error: What is raised.

    Returns:
        What was called and failed, in this order; filled while the run is used.
    """
    begin, calls = wandb.init, []

    def init(**given: Any) -> wandb.Run:
        run = begin(**given | {"mode": "disabled"})
        for name in ("log", "save", "log_artifact", "finish"):

            def broken(*arguments: Any, called: str = name, **more: Any) -> None:
                calls.append(called)
                raise error

            monkeypatch.setattr(run, name, broken)
        return run

    monkeypatch.setattr(wandb, "init", init)
    return calls

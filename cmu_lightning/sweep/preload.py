"""What the server that workers fork from imports, so that they need not; Ctrl-C is the sweep's to answer, not its."""

import signal

signal.signal(signal.SIGINT, signal.SIG_IGN)

import cmu_lightning.cli.fit  # noqa: E402, F401

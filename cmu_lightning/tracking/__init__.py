"""Run folders, checkpoints, and how processes agree on them."""

"""W&B sweep files, run locally."""

"""The commands `fit` and `test`, run by LightningCLI."""

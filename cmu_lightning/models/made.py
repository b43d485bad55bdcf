"""The name of `NetworkFromFunction` in configs that were stored before version 0.2."""

from cmu_lightning.models.factory import NetworkFromFunction as Made

__all__ = ["Made"]

"""The name that configs stored before version 0.2 use."""

from cmu_lightning.models.factory import NetworkFromFunction as Made

__all__ = ["Made"]

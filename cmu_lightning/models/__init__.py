"""The networks of the paper."""

from cmu_lightning.models.resnet9 import ResNet9
from cmu_lightning.models.wide_resnet import WideResNet

__all__ = ["ResNet9", "WideResNet"]

"""The networks of the paper, and others that the field uses."""

from cmu_lightning.models.resnet9 import ResNet9
from cmu_lightning.models.resnet18 import ResNet18
from cmu_lightning.models.vit import ViT
from cmu_lightning.models.wide_resnet import WideResNet

__all__ = ["ResNet9", "ResNet18", "ViT", "WideResNet"]

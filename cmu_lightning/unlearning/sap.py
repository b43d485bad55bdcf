"""SAP: spatial activation projection (AAAI 2025, arXiv 2403.08618)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad, unfold

from cmu_lightning.data.batches import EvaluationBatches, FullPasses
from cmu_lightning.data.evaluation import Evaluation, of_samples
from cmu_lightning.data.sampling import derive_seed
from cmu_lightning.errors import UserError
from cmu_lightning.unlearning.candidates import CandidateUnlearner
from cmu_lightning.unlearning.progress import track_parts
from cmu_lightning.unlearning.sample_masks import sample_words
from cmu_lightning.unlearning.stage import View

DISTANCE = 1e-3
"""Length of a step to each pixel, for a finite difference of gradients."""
DRAWS = 10
"""Number of directions in which each sample's curvature is measured."""
NUMBERS = 2**24
"""Numbers of unfolded input in memory at a time."""


def curvature(network: nn.Module, images: Tensor, labels: Tensor, index: Tensor, seed: int) -> Tensor:
    """Return the loss's curvature at each input: the mean over z of ||grad l(x + h z) - grad l(x)||, shape (n,).

    It is largest at mislabelled and untypical samples. The signs z are fixed by the samples' indices.

    Args:
        network: Network in evaluation mode.
        images: x, shape (n, C, H, W).
        labels: Labels as given, shape (n,).
        index: Indices of the samples, int64, shape (n,).
        seed: Seed of the signs.
    """

    def gradient(inputs: Tensor) -> Tensor:
        inputs = inputs.detach().requires_grad_(True)
        (found,) = torch.autograd.grad(cross_entropy(network(inputs), labels, reduction="sum"), inputs)
        return found

    here, pixels = gradient(images), images[0].numel() if len(images) else 0
    total = torch.zeros(len(images), device=images.device)
    for draw in range(DRAWS):
        words = sample_words(index, pixels, seed, first=draw * pixels)
        signs = (2 * (words & 1) - 1).view(images.shape).to(images.dtype)
        total += (gradient(images + DISTANCE * signs) - here).flatten(1).norm(dim=1)
    return total / DRAWS


def patches(layer: nn.Module, inputs: Tensor) -> Tensor:
    """Return the values that a layer multiplies its weights with: a convolution's patches, a linear layer's inputs.

    Args:
        layer: Convolution or linear layer.
        inputs: Its input, shape (n, C, H, W) or (n, ..., C).

    Returns:
        Shape (groups, numbers of a patch, patches).
    """
    if not isinstance(layer, nn.Conv2d):
        return inputs.flatten(0, -2).T.unsqueeze(0)
    mode: Any = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = pad(inputs, layer._reversed_padding_repeated_twice, mode)
    columns = unfold(padded, layer.kernel_size, layer.dilation, 0, layer.stride)
    numbers = layer.weight[0].numel()
    return columns.reshape(len(inputs), layer.groups, numbers, -1).permute(1, 2, 0, 3).flatten(2)


def projections(gram: Tensor, strengths: tuple[float, ...]) -> Iterator[Tensor]:
    """Yield U Lambda U^T for each alpha, Lambda_i = alpha r_i / ((alpha - 1) r_i + 1), r_i = sigma_i^2 / sum sigma^2.

    With A = U Sigma V^T, the matrix A A^T = U Sigma^2 U^T is enough. A direction that A does not have is projected out;
    alpha = 1 weights directions by their share r, an infinite alpha keeps all that A has.

    Args:
        gram: A A^T, float64, shape (groups, d, d).
        strengths: Values of alpha.
    """
    values, vectors = torch.linalg.eigh(gram)
    # Rounding leaves tiny numbers, some negative, where A has no component.
    floor = values.amax(dim=-1, keepdim=True) * values.shape[-1] * torch.finfo(values.dtype).eps
    share = torch.where(values > floor, values, 0)
    share = share / share.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(values.dtype).tiny)
    for alpha in strengths:
        kept = torch.where(share > 0, share / ((1 - 1 / alpha) * share + 1 / alpha), 0)
        yield (vectors * kept.unsqueeze(-2)) @ vectors.mT


class SAP(CandidateUnlearner):
    """Spatial activation projection: weights keep only the directions of trusted samples' activations.

    No training. Three steps:
      1. Trust the retain samples of each given class at which the loss has the smallest input curvature (`curvature`).
      2. Collect A, the inputs of each layer on trusted samples, one column for each patch. Project the layer's
         weights, W U Lambda U^T, with A = U Sigma V^T, r_i = sigma_i^2 / sum sigma^2 and
         Lambda_i = alpha r_i / ((alpha - 1) r_i + 1). Biases and batch norm stay.
      3. Try every alpha, and keep the best by validation samples (`CandidateUnlearner`).

    The trusted samples exclude S_f, which is otherwise used only to choose alpha. The published method
    trusts samples of all data, and chooses alpha by clean labels.

    Args:
        trusted: Number of trusted samples at least; the same number of each class, or all of a small class.
        strengths: Values of alpha; the published ones.
    """

    view: ClassVar[View] = "passes"
    uses: ClassVar[Literal["steps", "unlearn_steps"]] = "steps"

    def __init__(
        self,
        *args: Any,
        trusted: int = 1000,
        strengths: tuple[float, ...] = (1e4, 3e4, 1e5, 3e5, 1e6),
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if trusted < 1 or not strengths or not min(strengths) >= 1:
            raise UserError(
                f"trusted={trusted} and strengths={list(strengths)} are not possible: give a number of samples, and "
                "values of alpha of 1 or more"
            )
        self.trusted, self.strengths = trusted, tuple(strengths)

    def training_step(self, batch: FullPasses, batch_idx: int) -> None:  # type: ignore[override]
        """Trust, project, and keep the best projection.

        Args:
            batch: One pass over S_f and one over the retain data.
            batch_idx: Always 0.
        """
        self.network.eval()
        # 32 bits, not those of TF32: the finite difference is in the fourth digit.
        deterministic = torch.backends.cudnn.deterministic
        exact = torch.backends.cudnn.flags(enabled=True, deterministic=deterministic, allow_tf32=False)
        with torch.autocast(self.device.type, enabled=False), exact:
            trusted = self._trust(batch)
            projected = self._project(trusted)
        layers = dict(self.network.named_modules())

        def load(alpha: float) -> None:
            for name, weights in projected[alpha].items():
                layers[name].get_parameter("weight").data.copy_(weights)

        self.keep_best("alpha", self.strengths, load)

    def _trust(self, passes: FullPasses) -> Evaluation:
        """Return the trusted samples."""
        samples = self.data.samples
        curvatures = torch.zeros(len(samples.given_labels), device=self.device)
        batches = track_parts(self.trainer, passes.retain, "curvature of the retain data", len(passes.retain.steps))
        for batch in batches:
            if len(batch.image):
                found = curvature(self.network, batch.image, batch.label, batch.train_index, derive_seed(self.seed, 4))
                curvatures[batch.train_index] = found
            self.samples_forward += (1 + DRAWS) * batch.total
            self.samples_backward += (1 + DRAWS) * batch.total
        # Each process has found the trusted samples of its slices.
        curvatures = self.trainer.strategy.reduce(curvatures, reduce_op="sum").cpu()
        labels, deleted = samples.given_labels.cpu(), samples.deleted.cpu()
        order = curvatures.argsort(stable=True)
        order = order[~deleted[order]]
        quota, classes = self.trusted // self.data.num_classes + 1, range(self.data.num_classes)
        rows = torch.cat([order[labels[order] == label][:quota] for label in classes]).sort().values
        return of_samples(samples, rows, {"trusted": (labels[rows], torch.ones_like(rows, dtype=torch.bool))})

    def _project(self, trusted: Evaluation) -> dict[float, dict[str, Tensor]]:
        """Return the projected weights, on the CPU, by alpha and by the name of the layer."""
        projected: dict[float, dict[str, Tensor]] = {alpha: {} for alpha in self.strengths}
        layers = [
            (name, each) for name, each in self.network.named_modules() if isinstance(each, nn.Conv2d | nn.Linear)
        ]
        # One layer at a time: the matrices of all would take much more memory than the network.
        for name, layer in track_parts(self.trainer, layers, "activations of the layers", len(layers)):
            gram = self._gram(layer, trusted)
            if gram is None:
                continue
            weight = layer.weight.detach().double().reshape(len(gram), -1, gram.shape[-1]).to(gram.device)
            for alpha, projection in zip(self.strengths, projections(gram, self.strengths), strict=True):
                projected[alpha][name] = (weight @ projection).view(layer.weight.shape).to(layer.weight.dtype).cpu()
        return projected

    @torch.no_grad()
    def _gram(self, layer: nn.Conv2d | nn.Linear, trusted: Evaluation) -> Tensor | None:
        """Return A A^T of a layer, shape (groups, d, d), float64; None if the layer is not called as a module."""
        found: list[Tensor] = []
        # Apple's GPUs have no 64 bits.
        place = torch.device("cpu") if self.device.type == "mps" else self.device

        def add(inputs: Tensor) -> None:
            numbers = layer.weight[0].numel() * max(1, inputs[0].numel() // inputs.shape[1])
            for part in torch.split(inputs, max(1, NUMBERS // numbers)):
                columns = patches(layer, part).to(place).double()
                product = columns @ columns.mT
                found[:] = [found[0] + product] if found else [product]

        self.samples_forward += len(trusted.rows)
        with watched(layer, add), self.without_autotuning():
            for batch in EvaluationBatches(trusted, self.data.pixels(), rank=0, world_size=1):
                self.network(batch.image)
        return found[0] if found else None


@contextmanager
def watched(layer: nn.Module, see: Any) -> Iterator[None]:
    """Show a function every input of a layer.

    Args:
        layer: Layer of a network.
        see: Function of the input.
    """
    handle = layer.register_forward_pre_hook(lambda _, inputs: see(inputs[0]))
    try:
        yield
    finally:
        handle.remove()

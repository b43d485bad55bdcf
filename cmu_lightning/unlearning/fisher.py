"""The exact per-sample diagonal of the Fisher information, layer by layer.

For samples i = 1..N and every parameter theta: F = 1/N sum_i (d objective_i / d theta)^2, without N backward passes.
One backward pass of a whole batch gives, at each layer, its input a and the gradient g at its output; the squared
gradients of the layer's parameters follow from both. Layers of other kinds are differentiated sample by sample with
`vmap(grad)`.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import unfold
from torch.nn.modules.batchnorm import _BatchNorm

from cmu_lightning.data import Batch
from cmu_lightning.errors import UserError
from cmu_lightning.unlearning.importance import Objective, Sum, flat

CHUNK = {"cpu": 2**22, "cuda": 2**26}
"""Elements of per-sample gradients in memory at a time: few on a CPU, whose caches are small, many on a GPU."""

TOLERANCE = 0.05
"""Relative difference from autograd up to which a layer's squares count as correct; TF32 differs by thousandths."""


def fisher_diagonal(network: nn.Module, batches: Iterable[Batch], objective: Objective, total: Sum) -> Tensor:
    """Return F = 1/N sum_i (d objective_i / d theta)^2 over all N samples, shape (P,).

    It depends neither on the order of the samples nor on the size of the batches.

    Args:
        network: Network in evaluation mode.
        batches: This process's slices of global batches.
        objective: Value of each sample that is differentiated.
        total: Sum over processes.

    Raises:
        UserError: The network changes a layer's input in place.
    """
    sums = {name: torch.zeros_like(each) for name, each in network.named_parameters() if each.requires_grad}
    hooked: dict[str, nn.Module] | None = None
    count = 0
    for batch in batches:
        count += batch.total
        if not len(batch.image):
            continue
        # Once: find the layers whose squares follow from their input and output gradient, and test them on a sample.
        if hooked is None:
            hooked = _correct(network, _called_once_per_image(network, batch.image[0]), batch, objective)
        _add_by_hooks(sums, network, hooked, batch, objective)
        # All other parameters: one gradient per sample.
        others = {name for name in sums if name.rpartition(".")[0] not in hooked}
        if others:
            _add_by_functions(sums, network, others, batch, objective)
    whole = (sums.get(name, torch.zeros_like(each)) for name, each in network.named_parameters())
    return total(flat(whole)) / count


def is_supported(layer: nn.Module) -> bool:
    """Return whether `squares` has a formula for a layer; not for subclasses, which may compute anything.

    Args:
        layer: Any module.
    """
    if type(layer) is nn.Conv2d:
        return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return type(layer) is nn.Linear or (isinstance(layer, _BatchNorm) and layer.running_mean is not None)


def squares(layer: nn.Module, seen: Tensor, gradient: Tensor) -> dict[str, Tensor]:
    """Return the sums over samples of the squared gradients of `weight` and `bias`, in their shapes.

    Args:
        layer: Supported layer in evaluation mode.
        seen: Its input a, shape (n, ...).
        gradient: Gradient g of the summed objective at its output, shape (n, ...).
    """
    if isinstance(layer, nn.Linear):
        return _of_linear(seen.flatten(1, -2), gradient.flatten(1, -2)) if seen.dim() > 2 else _of_rows(seen, gradient)
    if isinstance(layer, nn.Conv2d):
        return _of_convolution(layer, seen, gradient.flatten(2))
    return _of_batch_norm(layer, seen, gradient)


def _of_rows(seen: Tensor, gradient: Tensor) -> dict[str, Tensor]:
    """Return the squares of a linear layer with one row per sample, shapes (n, in) and (n, out).

    The gradient of a sample is the outer product g a^T, so that its square is (g^2)(a^2)^T: one product of matrices.
    """
    squared = gradient.square()
    return {"weight": squared.T @ seen.square(), "bias": squared.sum(0)}


def _of_linear(seen: Tensor, gradient: Tensor) -> dict[str, Tensor]:
    """Return the squares of a linear layer with several rows a sample, shapes (n, rows, in) and (n, rows, out)."""
    weight = torch.zeros(gradient.shape[2], seen.shape[2], dtype=seen.dtype, device=seen.device)
    pieces = pieces_of(len(seen) * weight.numel(), seen.device)
    for a, g in zip(seen.chunk(pieces), gradient.chunk(pieces), strict=True):
        # The gradient of a sample sums over its rows, before it is squared.
        weight += _squared(g.transpose(1, 2) @ a)
    return {"weight": weight, "bias": _squared(gradient.sum(1))}


def _of_convolution(layer: nn.Conv2d, seen: Tensor, gradient: Tensor) -> dict[str, Tensor]:
    """Return the squares of a convolution; gradients of shape (n, out, positions)."""
    groups, positions = layer.groups, gradient.shape[2]
    inputs = layer.weight[0].numel()  # of one output channel
    weight = torch.zeros_like(layer.weight, memory_format=torch.contiguous_format).view(groups, -1, inputs)
    pieces = pieces_of(len(seen) * inputs * max(groups * positions, layer.out_channels), seen.device)
    for a, g in zip(seen.chunk(pieces), gradient.chunk(pieces), strict=True):
        # A convolution is a linear layer on patches, whose rows are the positions of the output.
        patches = unfold(a, layer.kernel_size, layer.dilation, layer.padding, layer.stride)  # type: ignore[arg-type]
        patches = patches.view(len(a), groups, inputs, positions)
        weight += _squared(g.reshape(len(g), groups, -1, positions) @ patches.transpose(2, 3))
    return {"weight": weight.view_as(layer.weight), "bias": _squared(gradient.sum(2))}


def _of_batch_norm(layer: nn.Module, seen: Tensor, gradient: Tensor) -> dict[str, Tensor]:
    """Return the squares of batch norm, in evaluation mode an affine map of each channel by running statistics."""
    channel = (1, -1, *[1] * (seen.dim() - 2))
    mean, variance = (layer.get_buffer(name).view(channel) for name in ("running_mean", "running_var"))
    normed = (seen - mean) * torch.rsqrt(variance + layer.eps)  # type: ignore[operator]
    return {
        name: _squared(value.flatten(2).sum(2) if value.dim() > 2 else value)
        for name, value in (("weight", gradient * normed), ("bias", gradient))
    }


def pieces_of(numbers: int, device: torch.device) -> int:
    """Return the number of pieces of a batch, so that the gradients of its samples fit into memory.

    Args:
        numbers: Elements of the gradients of the whole batch.
        device: Device that holds them.
    """
    return max(1, -(-numbers // CHUNK.get(device.type, CHUNK["cpu"])))


def _squared(gradients: Tensor) -> Tensor:
    """Return the sum of squares over the first dimension."""
    return gradients.square().sum(0)


def _called_once_per_image(network: nn.Module, image: Tensor) -> dict[str, nn.Module]:
    """Return the supported layers that a pass calls once, with a row for each image, and that share no parameter.

    Other layers see windows of an image, or positions of a sequence, where samples are expected, or no image at all.
    """
    owners = Counter(id(parameter) for module in network.modules() for parameter in module._parameters.values())
    layers = {
        name: module
        for name, module in network.named_modules()
        if is_supported(module)
        and module._parameters.keys() <= {"weight", "bias"}  # weight norm computes `weight` from others, in a hook
        and all(owners[id(parameter)] == 1 for parameter in module.parameters())
    }
    # Two batch sizes, because one of them may equal the number of windows or positions.
    for count in (2, 3):
        layers = _called_once(network, layers, image.expand(count, *image.shape))
    return layers


def _called_once(network: nn.Module, layers: dict[str, nn.Module], images: Tensor) -> dict[str, nn.Module]:
    """Return the layers that a pass calls once, with a row for each image that depends on it."""
    calls: Counter[str] = Counter()

    def called(name: str, layer: nn.Module, seen: tuple[Any, ...], output: Tensor) -> None:
        # Any other call counts twice, which excludes the layer.
        calls[name] += 1 if output.requires_grad and len(seen[0]) == len(output) == len(images) else 2

    with _without_gradients(network), _hooks(layers, called):
        network(images.detach().requires_grad_().clone())
    return {name: module for name, module in layers.items() if calls[name] == 1}


def _correct(
    network: nn.Module, hooked: dict[str, nn.Module], batch: Batch, objective: Objective
) -> dict[str, nn.Module]:
    """Return the layers whose squares on one sample equal autograd's.

    They differ if a weight is also used outside its layer.
    """
    one = batch._replace(image=batch.image[:1], label=batch.label[:1])
    trained = {name: each for name, each in network.named_parameters() if each.requires_grad}
    if not trained:
        return hooked
    squared = {name: torch.zeros_like(each) for name, each in trained.items()}
    _add_by_hooks(squared, network, hooked, one, objective)
    value = objective(network(one.image), one.label).sum()
    gradients = torch.autograd.grad(value, [*trained.values()], materialize_grads=True, allow_unused=True)
    exact = {name: gradient.square() for name, gradient in zip(trained, gradients, strict=True)}
    wrong = {
        name.rpartition(".")[0]
        for name in trained
        if (squared[name] - exact[name]).norm() > TOLERANCE * exact[name].norm()
    }
    return {name: layer for name, layer in hooked.items() if name not in wrong}


@contextmanager
def _hooks(layers: dict[str, nn.Module], called: Callable[..., None]) -> Iterator[None]:
    """Call a function with a layer's name, the layer, its arguments and its output after each of its passes."""
    handles = [layer.register_forward_hook(partial(called, name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _add_by_hooks(
    sums: dict[str, Tensor], network: nn.Module, layers: dict[str, nn.Module], batch: Batch, objective: Objective
) -> None:
    """Add the squared gradients of a batch to those layers' sums, by one forward and one backward pass."""

    def backward(name: str, layer: nn.Module, seen: Tensor, version: int, gradient: Tensor) -> None:
        if seen._version != version:
            raise UserError(f"the network changes the input of its layer {name} in place: use fisher: batch")
        with torch.no_grad():
            for parameter, value in squares(layer, seen, gradient).items():
                if (key := f"{name}.{parameter}".removeprefix(".")) in sums:
                    sums[key] += value

    def forward(name: str, layer: nn.Module, seen: tuple[Any, ...], output: Tensor) -> None:
        tensor = seen[0].detach()
        output.register_hook(partial(backward, name, layer, tensor, tensor._version))  # type: ignore[no-untyped-call]

    # Freeze the parameters, or autograd would also compute their summed gradients; the images carry the graph.
    image = batch.image.detach().requires_grad_().clone()
    with _without_gradients(network), _hooks(layers, forward):
        value = objective(network(image), batch.label).sum()
        if value.requires_grad:  # a network may look at images without gradients
            value.backward()  # type: ignore[no-untyped-call]


@contextmanager
def _without_gradients(network: nn.Module) -> Iterator[None]:
    """Freeze the parameters, and afterwards thaw those that were not frozen before."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    try:
        network.requires_grad_(False)
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_()


@torch.no_grad()  # of the network's other parameters, too
def _add_by_functions(
    sums: dict[str, Tensor], network: nn.Module, names: set[str], batch: Batch, objective: Objective
) -> None:
    """Add the squared gradients of a batch to those parameters' sums, by one gradient per sample."""
    values = {name: parameter.detach() for name, parameter in network.named_parameters() if name in names}

    def of_one(values: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        logits = functional_call(network, values, (image.unsqueeze(0),))
        return objective(logits, label.unsqueeze(0))[0]

    # In pieces: vmap holds the gradients of all their samples at a time.
    pieces = pieces_of(len(batch.image) * sum(value.numel() for value in values.values()), batch.image.device)
    for image, label in zip(batch.image.chunk(pieces), batch.label.chunk(pieces), strict=True):
        with sdpa_kernel(SDPBackend.MATH):  # vmap would call the fused kernels of attention sample by sample
            gradients = vmap(grad(of_one), in_dims=(None, 0, 0))(values, image, label)
        for name, gradient in gradients.items():
            sums[name] += gradient.square().sum(0)

"""The exact diagonal of the Fisher information, layer by layer."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import unfold
from torch.nn.modules.batchnorm import _BatchNorm

from cmu_lightning.data import Batch
from cmu_lightning.errors import UserError
from cmu_lightning.unlearning.importance import Objective, Sum, flat

CHUNK = {"cpu": 2**22, "cuda": 2**26}
"""Numbers of single samples' gradients in memory at a time: few on a CPU, whose caches are small, many on a GPU."""


def is_known(layer: nn.Module) -> bool:
    """Whether `squares` can tell; of subclasses it cannot, for they may do anything."""
    if type(layer) is nn.Conv2d:
        return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return type(layer) is nn.Linear or (isinstance(layer, _BatchNorm) and layer.running_mean is not None)


def squares(layer: nn.Module, seen: Tensor, gradient: Tensor) -> dict[str, Tensor]:
    """Sum of squared gradients of `weight` and `bias`.

    Args:
        layer: A known one, in evaluation mode.
        seen: Its input, shape (n, ...).
        gradient: At its output, shape (n, ...).
    """
    if isinstance(layer, nn.Linear):
        return _of_linear(seen.flatten(1, -2), gradient.flatten(1, -2)) if seen.dim() > 2 else _of_rows(seen, gradient)
    if isinstance(layer, nn.Conv2d):
        return _of_convolution(layer, seen, gradient.flatten(2))
    return _of_batch_norm(layer, seen, gradient)


def _of_rows(seen: Tensor, gradient: Tensor) -> dict[str, Tensor]:
    """One row a sample: the gradient is an outer product, and its square is that of the squares."""
    squared = gradient.square()
    return {"weight": squared.T @ seen.square(), "bias": squared.sum(0)}


def _of_linear(seen: Tensor, gradient: Tensor) -> dict[str, Tensor]:
    """Several rows a sample, shapes (n, rows, in) and (n, rows, out)."""
    weight = torch.zeros(gradient.shape[2], seen.shape[2], dtype=seen.dtype, device=seen.device)
    pieces = pieces_of(len(seen) * weight.numel(), seen.device)
    for a, g in zip(seen.chunk(pieces), gradient.chunk(pieces), strict=True):
        weight += _squared(g.transpose(1, 2) @ a)
    return {"weight": weight, "bias": _squared(gradient.sum(1))}


def _of_convolution(layer: nn.Conv2d, seen: Tensor, gradient: Tensor) -> dict[str, Tensor]:
    """A product of patches with the gradient, shape (n, out, places), for each sample and each group."""
    groups, places = layer.groups, gradient.shape[2]
    inputs = layer.weight[0].numel()  # of one output
    weight = torch.zeros_like(layer.weight, memory_format=torch.contiguous_format).view(groups, -1, inputs)
    pieces = pieces_of(len(seen) * inputs * max(groups * places, layer.out_channels), seen.device)
    for a, g in zip(seen.chunk(pieces), gradient.chunk(pieces), strict=True):
        patches = unfold(a, layer.kernel_size, layer.dilation, layer.padding, layer.stride)  # type: ignore[arg-type]
        patches = patches.view(len(a), groups, inputs, places)
        weight += _squared(g.reshape(len(g), groups, -1, places) @ patches.transpose(2, 3))
    return {"weight": weight.view_as(layer.weight), "bias": _squared(gradient.sum(2))}


def _of_batch_norm(layer: nn.Module, seen: Tensor, gradient: Tensor) -> dict[str, Tensor]:
    """An affine map of each channel, by running statistics."""
    channel = (1, -1, *[1] * (seen.dim() - 2))
    mean, spread = (layer.get_buffer(name).view(channel) for name in ("running_mean", "running_var"))
    normed = (seen - mean) * torch.rsqrt(spread + layer.eps)  # type: ignore[operator]
    return {
        name: _squared(value.flatten(2).sum(2) if value.dim() > 2 else value)
        for name, value in (("weight", gradient * normed), ("bias", gradient))
    }


def pieces_of(numbers: int, device: torch.device) -> int:
    """Into how many pieces a batch is cut, so that its numbers fit into memory."""
    return max(1, -(-numbers // CHUNK.get(device.type, CHUNK["cpu"])))


def _squared(gradients: Tensor) -> Tensor:
    """Sum of squares over the first dimension."""
    return gradients.square().sum(0)


TOLERANCE = 0.05
"""Relative; a GPU's short floats differ by thousandths."""


def fisher_diagonal(network: nn.Module, batches: Iterable[Batch], objective: Objective, total: Sum) -> Tensor:
    """The mean over samples of the squared gradient of each sample's objective.

    It depends neither on the order of the samples nor on the size of the batches.

    Args:
        network: In evaluation mode.
        batches: This process's slices of global batches.
        objective: What is differentiated.
        total: Adds up over processes.

    Returns:
        Shape (number of parameters,).

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
        if hooked is None:
            hooked = _right(network, _used_once(network, batch.image[0]), batch, objective)
        _add_by_hooks(sums, network, hooked, batch, objective)
        others = {name for name in sums if name.rpartition(".")[0] not in hooked}
        if others:
            _add_by_functions(sums, network, others, batch, objective)
    whole = (sums.get(name, torch.zeros_like(each)) for name, each in network.named_parameters())
    return total(flat(whole)) / count


def _used_once(network: nn.Module, image: Tensor) -> dict[str, nn.Module]:
    """The known layers that see each image once a pass, as a row, and share no parameter with a module.

    Others put windows of an image, or places of a sequence, where samples are expected, or see no image at all. That is
    tried with two numbers of images, for one of them may be that of the places.
    """
    owners = Counter(id(parameter) for module in network.modules() for parameter in module._parameters.values())
    known = {
        name: module
        for name, module in network.named_modules()
        if is_known(module)
        and module._parameters.keys() <= {"weight", "bias"}  # others make the weight, in a hook of their own
        and all(owners[id(parameter)] == 1 for parameter in module.parameters())
    }
    for count in (2, 3):
        known = _called_once(network, known, image.expand(count, *image.shape))
    return known


def _called_once(network: nn.Module, layers: dict[str, nn.Module], images: Tensor) -> dict[str, nn.Module]:
    """The layers that a pass calls once, with a row for each image, which depends on it."""
    calls: Counter[str] = Counter()

    def called(name: str, layer: nn.Module, seen: tuple[Any, ...], output: Tensor) -> None:
        calls[name] += 1 if output.requires_grad and len(seen[0]) == len(output) == len(images) else 2

    with _without_gradients(network), _hooks(layers, called):
        network(images.detach().requires_grad_().clone())
    return {name: module for name, module in layers.items() if calls[name] == 1}


def _right(
    network: nn.Module, hooked: dict[str, nn.Module], batch: Batch, objective: Objective
) -> dict[str, nn.Module]:
    """The layers whose squares on one sample are autograd's; a weight that is used beside its layer has others."""
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
    """Call with a layer's name, itself, its arguments and its output after each of its passes."""
    handles = [layer.register_forward_hook(partial(called, name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _add_by_hooks(
    sums: dict[str, Tensor], network: nn.Module, layers: dict[str, nn.Module], batch: Batch, objective: Objective
) -> None:
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

    image = batch.image.detach().requires_grad_().clone()  # so that there is a graph without the parameters
    with _without_gradients(network), _hooks(layers, forward):
        value = objective(network(image), batch.label).sum()
        if value.requires_grad:  # a network may look at images without gradients
            value.backward()  # type: ignore[no-untyped-call]


@contextmanager
def _without_gradients(network: nn.Module) -> Iterator[None]:
    """Frozen for a while."""
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
    values = {name: parameter.detach() for name, parameter in network.named_parameters() if name in names}

    def of_one(values: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        logits = functional_call(network, values, (image.unsqueeze(0),))
        return objective(logits, label.unsqueeze(0))[0]

    pieces = pieces_of(len(batch.image) * sum(value.numel() for value in values.values()), batch.image.device)
    for image, label in zip(batch.image.chunk(pieces), batch.label.chunk(pieces), strict=True):
        gradients = vmap(grad(of_one), in_dims=(None, 0, 0))(values, image, label)
        for name, gradient in gradients.items():
            sums[name] += gradient.square().sum(0)

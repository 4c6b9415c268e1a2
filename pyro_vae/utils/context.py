"""The context of a batch: what is given with each example, and the modules that take it.

A batch is one tensor x, or a tuple ``(x, *context)`` whose entries have the same first dimension.
The context is never generated: a class label, covariates, a library size, a mask.
"""

import hashlib
import inspect
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyro_vae.utils.checks import kind
from pyro_vae.utils.modules import Function

__all__ = [
    "Batch",
    "Context",
    "Examples",
    "as_batch",
    "as_context",
    "broadcasts",
    "content_hash",
    "entry_of",
    "expanded",
    "given",
    "rows",
    "takes_context",
    "takes_inputs",
]

Batch = Tensor | Sequence[Tensor]
"""x, or ``(x, *context)``."""

Context = Tensor | Sequence[Tensor]
"""One tensor that is given with x, or several."""

Examples = tuple[Tensor, ...]
"""A batch as a tuple, whose first entry is x."""

_INNER = "network", "posterior", "likelihood"  # what a part with ``*context`` hands it on to


_UNSIGNED = torch.uint16, torch.uint32, torch.uint64


def as_batch(batch: Batch, argument: str = "x") -> tuple[Tensor, ...]:
    """A batch as the tuple ``(x, *context)``.

    Arguments:
        batch: A tensor, or a tuple or list of tensors with the same first dimension.
        argument: The name of the batch in error messages.

    Raises:
        TypeError: It is neither.
        ValueError: It is an empty tuple, or an entry has another number of examples than x.

    Example:
        >>> from pyro_vae.utils.context import as_batch
        >>> [entry.shape for entry in as_batch((torch.zeros(7, 3), torch.arange(7)))]
        [torch.Size([7, 3]), torch.Size([7])]
    """
    if isinstance(batch, Tensor):
        _check_dense(argument, batch)
        return (batch,)
    if not isinstance(batch, tuple | list):
        raise TypeError(
            f"{argument}: got {kind(batch)}, expected a torch.Tensor, or a tuple (x, *context) of "
            "them"
        )
    if not batch:
        raise ValueError(f"{argument}: got an empty tuple, expected (x, *context)")
    x = batch[0]
    if not isinstance(x, Tensor):
        raise TypeError(
            f"{argument}: got {kind(x)} as the first entry of a tuple, expected a torch.Tensor"
        )
    _check_dense(argument, x)
    context = as_context(tuple(batch[1:]), len(x) if x.dim() else 1)
    for index, entry in enumerate(context):
        if entry.device != x.device:
            raise ValueError(
                f"context: got entry {index} on {entry.device}, expected {x.device}, the device "
                "of x"
            )
    return x, *context


def _check_dense(argument: str, x: Tensor) -> None:
    if x.is_nested or x.layout != torch.strided:
        what = "a nested tensor" if x.is_nested else f"a tensor of layout {x.layout}"
        instead = ", of one size for all examples" if x.is_nested else ": x.to_dense()"
        raise TypeError(f"{argument}: got {what}, expected a dense one{instead}")


def as_context(
    context: Context | None, examples: int | None = None, *, points: bool = False
) -> tuple[Tensor, ...]:
    """A context as a tuple of tensors.

    Arguments:
        context: A tensor, a tuple or list of tensors, or None.
        examples: The number of examples that it is given with; None takes that of the first entry.
        points: Whether the batch dimensions are those of some points, which may be none.

    Raises:
        TypeError: `context` holds something else than tensors.
        ValueError: An entry has another number of examples.

    Example:
        >>> from pyro_vae.utils.context import as_context
        >>> as_context(torch.arange(3)), as_context(None)
        ((tensor([0, 1, 2]),), ())
    """
    if context is None:
        return ()
    if not isinstance(context, Tensor | tuple | list):
        raise TypeError(
            f"context: got {kind(context)}, expected a torch.Tensor, or a tuple of them"
        )
    entries = (context,) if isinstance(context, Tensor) else tuple(context)
    for index, entry in enumerate(entries):
        if not isinstance(entry, Tensor):
            raise TypeError(
                f"context: got {kind(entry)} as entry {index}, expected a torch.Tensor"
            )
        if entry.layout != torch.strided:
            raise TypeError(
                f"context: got a tensor of layout {entry.layout} as entry {index}, expected a "
                "dense one: entry.to_dense()"
            )
        if entry.dtype in _UNSIGNED:
            raise TypeError(
                f"context: got {entry.dtype} as entry {index}, for which torch has few operators, "
                "expected entry.long()"
            )
        if points:
            continue
        if not entry.dim():
            raise ValueError(
                f"context: got a number as entry {index}, expected a tensor of shape (N, ...): "
                "one row for each example"
            )
        examples = len(entry) if examples is None else examples
        if len(entry) != examples:
            raise ValueError(
                f"context: got {len(entry)} rows as entry {index}, expected {examples}: one for "
                "each example"
            )
    return entries


def rows(batch: Sequence[Tensor], index: slice | Tensor) -> Examples:
    """Some examples of a batch, with their context.

    Example:
        >>> from pyro_vae.utils.context import rows
        >>> [entry.shape for entry in rows((torch.zeros(7, 3), torch.arange(7)), slice(2))]
        [torch.Size([2, 3]), torch.Size([2])]
    """
    return tuple(entry[index] for entry in batch)


def content_hash(batch: Sequence[Tensor]) -> str:
    """16 hexadecimal digits of the SHA-256 of dtypes, shapes and bytes, the same on every device.

    NaN has many bit patterns, which count as one.

    Example:
        >>> from pyro_vae.utils.context import content_hash
        >>> content_hash([torch.zeros(3)]) == content_hash([torch.zeros(3, 1)])
        False
    """
    digest = hashlib.sha256()
    for entry in batch:
        digest.update(f"{entry.dtype}{tuple(entry.shape)}".encode())
        if entry.is_floating_point() and torch.isnan(entry).any():
            entry = torch.where(torch.isnan(entry), math.nan, entry)
        digest.update(entry.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def entry_of(context: Sequence[Tensor], index: int) -> Tensor:
    """The entry of a context with an index; raises ValueError if there is none.

    Example:
        >>> from pyro_vae.utils.context import entry_of
        >>> entry_of([torch.arange(3)], 0)
        tensor([0, 1, 2])
    """
    if index >= len(context):
        raise ValueError(
            f"context: got {len(context)} entries, expected one with the index {index}"
        )
    return context[index]


def expanded(context: Sequence[Tensor], batch: torch.Size) -> tuple[Tensor, ...]:
    """The rows of a context, repeated over batch dimensions on the left of that of the examples.

    Arguments:
        context: Tensors of shape ``(N, ...)``.
        batch: A batch shape that ends with N.

    Example:
        >>> from pyro_vae.utils.context import expanded
        >>> expanded([torch.zeros(7, 3)], torch.Size((5, 7)))[0].shape
        torch.Size([5, 7, 3])
    """
    if len(batch) < 2:
        return tuple(context)
    return tuple(entry.expand(*batch, *entry.shape[1:]) for entry in context)


def takes_context(module: nn.Module, inputs: int = 1) -> bool:
    """Whether a module's ``forward`` takes a context after its own inputs.

    It does if it has further positional parameters without a default, or ``*context``. A part with
    ``*context`` and a ``network`` hands the context on, and takes it only if the network does. An
    attribute ``takes_context`` of the module decides in place of all this; its attribute
    ``entries`` is then the number of entries after x that it reads.

    Arguments:
        module: A part or a network.
        inputs: The number of its own inputs: 0 for a prior, 1 for most, 2 with a class or a layer
            above.

    Example:
        >>> from pyro_vae.utils.context import takes_context
        >>> class Joined(torch.nn.Linear):
        ...     def forward(self, z, label):
        ...         return super().forward(torch.cat((z, label), -1))
        >>> takes_context(Joined(5, 2)), takes_context(torch.nn.Linear(5, 2))
        (True, False)
    """
    own = getattr(module, "takes_context", None)
    if isinstance(own, bool):
        # A network that reads so many entries may read inputs of the part alone.
        entries = getattr(module, "entries", None)
        return own and (entries is None or entries >= inputs)
    required, _, rest = _positional(module)
    if required > inputs:
        return True
    if not rest:
        return False
    inner = [getattr(module, name) for name in _INNER if hasattr(module, name)]
    return not inner or takes_context(inner[0], inputs)


def takes_inputs(module: nn.Module, count: int) -> bool:
    """Whether a part takes so many inputs, and hands on the last one if it has a network.

    Arguments:
        module: A part.
        count: The number of inputs, such as 2 for z and a class.

    Example:
        >>> from pyro_vae.utils.context import takes_inputs
        >>> takes_inputs(likelihoods.Bernoulli(networks.MLP(5, (), 2)), 2)
        False
    """
    _, positional, _ = _positional(module)
    return positional >= count or takes_context(module, count - 1)


def broadcasts(module: nn.Module) -> bool:
    """Whether a module takes inputs of different batch shapes, by its attribute ``broadcasts``.

    A part with a ``network`` does if the network does.

    Example:
        >>> from pyro_vae.utils.context import broadcasts
        >>> broadcasts(torch.nn.Linear(5, 2))
        False
    """
    own = getattr(module, "broadcasts", None)
    if isinstance(own, bool):
        return own
    inner = [getattr(module, name) for name in _INNER if hasattr(module, name)]
    return bool(inner) and broadcasts(inner[0])


def _positional(module: nn.Module) -> tuple[int, int, bool]:
    """How many positional parameters are required, and there at all; whether there is ``*args``.

    They are those of the module's ``forward``, or of its function.
    """
    forward = module.function if isinstance(module, Function) else module.forward
    try:
        parameters = inspect.signature(forward).parameters.values()
    except ValueError:  # written in C
        return 0, 0, False
    kinds = inspect.Parameter
    own = [p for p in parameters if p.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)]
    required = sum(p.default is kinds.empty for p in own)
    return required, len(own), any(p.kind is kinds.VAR_POSITIONAL for p in parameters)


def given(network: nn.Module, x: Tensor, context: Sequence[Tensor]) -> Tensor:
    """The output of a network at x, with the context if the network takes it.

    Raises:
        ValueError: x has no examples: torch's densities reshape to ``(*batch, -1)``.

    Example:
        >>> from pyro_vae.utils.context import given
        >>> given(torch.nn.Linear(3, 2), torch.zeros(7, 3), [torch.arange(7)]).shape
        torch.Size([7, 2])
    """
    if not x.numel():
        shape = tuple(x.shape)
        raise ValueError(f"input: got no examples (shape {shape}), expected at least one")
    return network(x, *context) if context and takes_context(network) else network(x)

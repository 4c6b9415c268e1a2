"""The likelihood of the columns of a table, each of a kind of its own."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae import distributions
from pyro_vae.utils.checks import check_count, check_mapping, check_text, kind, plain
from pyro_vae.utils.context import given, takes_context
from pyro_vae.utils.shapes import out_shape

__all__ = ["Column", "Columns"]

Column = type[nn.Module] | Callable[..., nn.Module]
"""A likelihood class, called with a network, or a ``functools.partial`` of one."""


class Columns(nn.Module):
    r"""Independent columns, :math:`p(x|z) = \prod_c p_c(x_c|z)`, each of a kind of its own.

    x has the shape ``(*batch, columns)``, in the order of the mapping, with classes as 0.0, 1.0
    and so on. The network gives the numbers of all columns in one vector, those of the first
    column first. Columns of one class and options are scored in one call; parameters of a
    likelihood (``scale="shared"``) are those of its column alone. The point value of a column
    of classes is the most probable class, and that of all others their mean.

    A likelihood of your own says by an attribute ``numbers`` how many numbers it takes for each
    element of x, an int or a function of its options, and by this that elements depend on their
    own numbers alone. Without the attribute it takes one, and is called column by column.

    Source: Nazábal et al. (2020), "Handling incomplete heterogeneous data using VAEs",
    arXiv 1807.03653, section 3.

    Arguments:
        network: Maps z of shape ``(*batch, z_dim)`` to all numbers, of shape ``(*batch,
            Columns.numbers(columns))``.
        columns: The likelihood of each column by its name: a class, such as ``Gaussian``, or a
            ``functools.partial`` with its options, such as ``partial(Categorical, levels=3)``.

    Raises:
        TypeError: `columns` is no such mapping, or a likelihood does not take its options.
        ValueError: `columns` is empty, the network gives another number of numbers, or an option
            is out of range. In ``forward``: the distribution of a column has another shape.

    Example:
        >>> from functools import partial
        >>> sex = partial(likelihoods.Categorical, levels=2)
        >>> columns = {"age": likelihoods.Gaussian, "sex": sex, "visits": likelihoods.Poisson}
        >>> network = networks.MLP(20, (500,), likelihoods.Columns.numbers(columns))
        >>> likelihood = likelihoods.Columns(network, columns)
        >>> likelihood(torch.randn(7, 20)).event_shape
        torch.Size([3])
    """

    _index: Tensor
    _places: Tensor

    def __init__(self, network: nn.Module, columns: Mapping[str, Column]) -> None:
        super().__init__()
        takes = _numbers(columns)
        likelihoods, shares = _grouped(columns, takes)
        shape = out_shape(network)
        if shape != (sum(takes.values()),):
            each = ", ".join(f"{name!r} {count}" for name, count in takes.items())
            raise ValueError(
                f"network: got out_shape {tuple(shape)}, expected ({sum(takes.values())},): the "
                f"columns take {each}"
            )
        self.network = network
        self.names = tuple(columns)
        self.columns = likelihoods
        self._shares = [tuple(share) for share in shares]
        starts = torch.tensor([0, *takes.values()], device="cpu").cumsum(0).tolist()
        places = [
            starts[column] + number
            for share in shares
            for number in range(takes[self.names[share[0]]])
            for column in share
        ]
        self._sizes = [len(share) * takes[self.names[share[0]]] for share in shares]
        # Which number of the network is whose, and which column of x is whose; not to be saved.
        self.register_buffer("_places", torch.tensor(places), persistent=False)
        order = [column for share in shares for column in share]
        self.register_buffer("_index", distributions.index_of(order), persistent=False)

    @staticmethod
    def numbers(columns: Mapping[str, Column]) -> int:
        """How many numbers the columns take: the size of the network's output.

        Example:
            >>> likelihoods.Columns.numbers({"age": likelihoods.Gaussian})
            2
        """
        return sum(_numbers(columns).values())

    @property
    def takes_context(self) -> bool:
        """Whether ``forward`` takes a context: for the network, or for a column."""
        return any(map(takes_context, (self.network, *self.columns)))

    def forward(self, z: Tensor, *context: Tensor) -> dist.Distribution:
        numbers = given(self.network, z, context).index_select(-1, self._places)
        parts: list[dist.Distribution] = []
        shares = numbers.split(self._sizes, -1)
        for likelihood, share, own in zip(self.columns, self._shares, shares, strict=True):
            parts += self._of_share(likelihood, share, own, context)
        places = [column for share in self._shares for column in share]
        return distributions.Columns(parts, places, self.names, self._index)

    def _of_share(
        self,
        likelihood: nn.Module,
        share: tuple[int, ...],
        numbers: Tensor,
        context: tuple[Tensor, ...],
    ) -> list[dist.Distribution]:
        """The distributions of columns of one likelihood, in as few as there can be."""
        entries = context if context and takes_context(likelihood) else ()
        together = likelihood(numbers, *entries)
        shape = (len(share),)
        fits = getattr(together, "event_shape", None) == shape
        if not fits or together.batch_shape != numbers.shape[:-1]:
            names = ", ".join(repr(self.names[column]) for column in share)
            got = (
                f"batch_shape {tuple(together.batch_shape)} and event_shape "
                f"{tuple(together.event_shape)}"
                if isinstance(together, torch.distributions.Distribution)
                else kind(together)
            )
            raise ValueError(
                f"columns: got {got} from the likelihood of {names}, expected a distribution with "
                f"batch_shape {tuple(numbers.shape[:-1])} and event_shape {shape}"
            )
        if distributions.by_element(together):
            return [together]
        apart = numbers.unflatten(-1, (-1, len(share))).unbind(-1)
        return [likelihood(own, *entries) for own in apart]

    def extra_repr(self) -> str:
        return f"names={list(self.names)}"


class _Numbers(nn.Module):
    """The network of a column's likelihood: it is given its own numbers and hands them on."""

    def __init__(self, numbers: int, names: list[str]) -> None:
        super().__init__()
        self._numbers, self._names = numbers, names
        own = torch.Size((len(names),))
        self.out_shape = own if numbers == 1 else torch.Size((numbers, *own))

    def forward(self, numbers: Tensor) -> Tensor:
        return numbers if self._numbers == 1 else numbers.unflatten(-1, (self._numbers, -1))

    def extra_repr(self) -> str:
        return f"{self._numbers} for each of {', '.join(map(repr, self._names))}"


def _numbers(columns: Mapping[str, Column]) -> dict[str, int]:
    """How many numbers each column takes, by its name."""
    check_mapping("columns", columns, "names to likelihoods")
    return {name: _takes(name, column) for name, column in columns.items()}


def _takes(name: str, column: Column) -> int:
    """How many numbers a column takes, by the attribute of its likelihood."""
    check_text("columns", name)
    likelihood, options = _opened(name, column)
    numbers = getattr(likelihood, "numbers", 1)
    try:
        count = numbers(**options) if callable(numbers) else numbers
        check_count("numbers", count)
    except (TypeError, ValueError) as error:
        raise _of_column(name, error) from error
    return plain(count)


def _opened(name: str, column: Column) -> tuple[type[nn.Module], dict[str, Any]]:
    """The class of a column's likelihood, and its options."""
    options: dict[str, Any] = {}
    likelihood: Any = column
    if isinstance(column, partial):
        if column.args:
            raise TypeError(
                f"columns: column {name!r}: got a partial with {len(column.args)} arguments "
                "without a name, expected options by their names alone"
            )
        likelihood, options = column.func, dict(column.keywords)
    if not (isinstance(likelihood, type) and issubclass(likelihood, nn.Module)):
        got = kind(column) if not isinstance(column, partial) else f"a partial of {likelihood!r}"
        raise TypeError(
            f"columns: column {name!r}: got {got}, expected a likelihood class, such as "
            "likelihoods.Gaussian, or a functools.partial of one"
        )
    return likelihood, options


def _of_column(name: str, error: Exception) -> Exception:
    """An error, with the name of its column."""
    known = ValueError if isinstance(error, ValueError) else TypeError
    return known(f"columns: column {name!r}: {error}")


def _grouped(
    columns: Mapping[str, Column], takes: Mapping[str, int]
) -> tuple[nn.ModuleList, list[list[int]]]:
    """The likelihoods, and which columns each of them has.

    Columns share one if its class says that elements depend on their own numbers alone, their
    options are the same, and it has no parameters of its own.
    """
    opened = [_opened(name, column) for name, column in columns.items()]
    names = list(columns)
    shares: list[list[int]] = []
    for place in range(len(names)):
        share = next((s for s in shares if _same(opened[s[0]], opened[place])), None)
        if share is None or not _shared(_made(names, opened, takes, [place])):
            shares.append([place])
        else:
            share.append(place)
    return nn.ModuleList(_made(names, opened, takes, share) for share in shares), shares


def _same(own: tuple[type, dict[str, Any]], other: tuple[type, dict[str, Any]]) -> bool:
    """Whether two columns have one class and options."""
    if own[0] is not other[0] or own[1].keys() != other[1].keys():
        return False
    pairs = [(plain(own[1][key]), plain(other[1][key])) for key in own[1]]
    return all(
        a is b or (type(a) is type(b) and isinstance(a, int | float | str) and a == b)
        for a, b in pairs
    )


def _shared(likelihood: nn.Module) -> bool:
    """Whether a likelihood serves several columns at once."""
    own = [*likelihood.parameters(), *likelihood.buffers()]
    return hasattr(likelihood, "numbers") and not own


def _made(
    names: list[str],
    opened: list[tuple[type[nn.Module], dict[str, Any]]],
    takes: Mapping[str, int],
    share: list[int],
) -> nn.Module:
    """The likelihood of some columns."""
    likelihood, options = opened[share[0]]
    own = [names[place] for place in share]
    try:
        return likelihood(_Numbers(takes[own[0]], own), **options)
    except (TypeError, ValueError) as error:
        raise _of_column(own[0], error) from error

"""A network of the columns of a table, whose classes are no numbers."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyro_vae.utils.checks import check_count, check_flag, check_module, check_values, plain
from pyro_vae.utils.context import given
from pyro_vae.utils.shapes import out_shape, split_shape

__all__ = ["Columns"]


class Columns(nn.Module):
    r"""A network of a table's columns: classes become one-hot vectors, counts :math:`\log(1 + x)`.

    From x of shape ``(*batch, columns)``, the network gets one vector: the reals, the logarithms
    of the counts, then a one-hot vector for each column of classes. With `holes`, NaN means "not
    observed": a number is then 0 and a one-hot vector is zeros, and the mask of the numbers, 1
    where observed, stands before the one-hot vectors.

    Arguments:
        network: Takes vectors of ``Columns.numbers(columns, holes)`` numbers.
        columns: What each column is: ``"real"``, ``"count"``, or the number of its classes, as
            ``datasets.Table.inputs`` says.
        holes: Whether x may have NaN.

    Raises:
        TypeError: `network` is not a module, or has no ``out_shape``; `columns` is no sequence.
        ValueError: A column is none of the three, or the network's ``in_shape`` has another size;
            in ``forward``, x does not end with the columns.

    Example:
        >>> columns = ["real", 3, "count"]
        >>> network = networks.MLP(networks.Columns.numbers(columns), (16,), 4)
        >>> network = networks.Columns(network, columns)
        >>> network(torch.tensor([[0.5, 2.0, 7.0]])).shape
        torch.Size([1, 4])
    """

    _reals: Tensor
    _counts: Tensor
    _columns: Tensor
    _classes: Tensor

    def __init__(
        self, network: nn.Module, columns: Sequence[int | str], holes: bool = False
    ) -> None:
        super().__init__()
        check_module("network", network)
        size = self.numbers(columns, holes)
        inner = getattr(network, "in_shape", None)
        if inner is not None and tuple(inner) != (size,):
            raise ValueError(
                f"network: got in_shape {tuple(inner)}, expected ({size},): the numbers, the "
                "masks and the one-hot vectors of the columns"
            )
        self.network, self.holes = network, bool(holes)
        self.columns = tuple(plain(column) for column in columns)
        self.out_shape = out_shape(network)
        every = [
            (place, level)
            for place, count in enumerate(self.columns)
            if not isinstance(count, str)
            for level in range(count)
        ]
        indices = {
            "_reals": [i for i, column in enumerate(self.columns) if column == "real"],
            "_counts": [i for i, column in enumerate(self.columns) if column == "count"],
            "_columns": [place for place, _ in every],
        }
        for name, index in indices.items():
            self.register_buffer(name, torch.tensor(index, dtype=torch.int64), persistent=False)
        levels = torch.tensor([level for _, level in every], dtype=torch.int64)
        self.register_buffer("_classes", levels, persistent=False)

    @staticmethod
    def numbers(columns: Sequence[int | str], holes: bool = False) -> int:
        """How many numbers the network gets.

        Example:
            >>> networks.Columns.numbers(["real", 3, "count"])
            5
        """
        check_values("columns", columns)
        check_flag("holes", holes)
        for column in columns:
            if isinstance(column, str):
                if column not in ("real", "count"):
                    raise ValueError(
                        f"columns: got {column!r}, expected 'real', 'count' or a number of classes"
                    )
            else:
                check_count("columns", column)
        each = 2 if holes else 1
        return sum(each if isinstance(column, str) else plain(column) for column in columns)

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        split_shape(x, torch.Size((len(self.columns),)), self)
        numbers = [x.index_select(-1, self._reals), x.index_select(-1, self._counts).log1p()]
        if self.holes:
            joined = torch.cat(numbers, -1)
            missing = torch.isnan(joined)
            numbers = [joined.masked_fill(missing, 0.0), (~missing).to(x.dtype)]
        # NaN equals no class.
        classes = (x.index_select(-1, self._columns) == self._classes).to(x.dtype)
        return given(self.network, torch.cat((*numbers, classes), -1), context)

    def extra_repr(self) -> str:
        return f"columns={list(self.columns)}" + (", holes=True" if self.holes else "")

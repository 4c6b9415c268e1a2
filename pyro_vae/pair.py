"""The pair: a Pyro model and guide as one module, whose parameters are its own."""

import inspect
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NoReturn

import pyro
import torch
from pyro import poutine
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.distributions.constraints import Constraint

from pyro_vae.compat import is_jit_tracing, tables, unconstrained_parameters
from pyro_vae.contracts import holes_named, observes_holes
from pyro_vae.param_store import OwnParameters, Params, apart, bind, release
from pyro_vae.programs import OwnBaselines, OwnProgram, Programs, exchanged, name_of, watched
from pyro_vae.utils import html
from pyro_vae.utils.checks import check_module, kind
from pyro_vae.utils.modules import counted

__all__ = ["Pair", "check_pair"]


def __dir__() -> list[str]:
    return __all__


_OF_A_VAE = ("prior", "likelihood", "posterior", "embed", "decode", "reconstruct", "generate")


class Pair(nn.Module):
    r"""A Pyro model p(x, z) and guide q(z|x) as one module, with the modules that they use.

    The log-density of a batch is :math:`\sum_n \log p(x_n, z_n)`: the sites of both programs are
    in a plate ``"data"`` over the examples. Training maximizes the ELBO,
    :math:`E_{q(z|x)}[\log p(x, z) - \log q(z|x)] \le \log p(x)`.

    All parameters belong to this object: those of the modules, and those that ``pyro.param``
    makes, which are in :attr:`params` once :meth:`setup` or a first call has run. ``pyro.param``,
    ``pyro.module``, ``PyroModule`` and ``PyroParam`` find the pair's own tensors, whatever Pyro's
    global store has under their names. In the store, they have the names ``"<name>.<path>"``. Two
    pairs share nothing, and ``pyro.clear_param_store()`` loses nothing.

    A function may close over a module that is passed by keyword. In a copy of the pair, the copy's
    module takes its place. A module or method as `model` or `guide` needs no keyword.

    Arguments:
        model: A Pyro program ``model(x, *context)`` that observes x: a function, a module, or a
            method of a module.
        guide: A Pyro program ``guide(x, *context)`` with the latent sites of the model.
        name: Prefix of the parameters' names in Pyro's store.
        modules: The modules that both use. They are trained, moved and saved as attributes of the
            pair.

    Raises:
        TypeError: `model` or `guide` is not callable, a keyword is not a module, or is the name of
            an attribute that a pair has already. In :meth:`model` and :meth:`guide`: a module
            takes another number of arguments.
        ValueError: In the first call of :meth:`model` or :meth:`guide`: the program uses a module
            or a trained tensor that the pair does not have.
        RuntimeError: ``torch.jit`` traces the model or the guide.

    Example:
        >>> import pyro.distributions as dist
        >>> decoder, encoder = networks.MLP(2, (16,), 5), networks.MLP(5, (16,), 2)
        >>> def model(x):
        ...     scale = pyro.param("scale", torch.ones(()), dist.constraints.positive)
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        ...         pyro.sample("x", dist.Normal(decoder(z), scale).to_event(1), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(encoder(x), 0.5).to_event(1))
        >>> pair = Pair(model, guide, decoder=decoder, encoder=encoder)
        >>> pair.setup(torch.zeros(7, 5))
        >>> len(list(pair.parameters())), list(pair.params)
        (9, ['scale'])
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        *,
        name: str = "pair",
        **modules: nn.Module,
    ) -> None:
        super().__init__()
        self._start(name)
        self.params = Params()
        """The parameters that ``pyro.param`` made, by name, in their unconstrained space."""
        self.programs = nn.ModuleDict()
        """The modules that are `model` or `guide`, or that have it as a method."""
        self._read: dict[str, set[str]] = {}  # parameters that each program has read, by path
        taken = {*dir(self), "_programs"}
        for keyword, module in modules.items():
            if keyword in taken:
                raise TypeError(
                    f"{keyword}: got it as a keyword, expected another name: a pair has an "
                    f"attribute {keyword!r} already"
                )
            check_module(keyword, module)
            self.add_module(keyword, module)
        programs = {
            argument: self._program(argument, function)
            for argument, function in (("model", model), ("guide", guide))
        }
        self._programs = Programs(programs, modules)

    def _start(self, name: str) -> None:
        """Sets what every pair has, also one whose programs are methods."""
        if not isinstance(name, str) or not name:
            raise TypeError(f"name: got {name!r}, expected a non-empty string")
        self.name = name
        self.preset: dict[str, Any] | None = None
        """The arguments of `presets.build`, from which `load` rebuilds a VAE; else None."""

    def _program(
        self, argument: str, function: Callable[..., Any]
    ) -> Callable[..., Any] | OwnProgram:
        """A function as it is; a module or a method by the path of the module."""
        owner = getattr(function, "__self__", function)
        if isinstance(function, type) or not callable(function):
            raise TypeError(
                f"{argument}: got {function!r}, expected a function {argument}(x, *context)"
            )
        if not isinstance(owner, nn.Module):
            return function
        method = None if owner is function else function.__func__  # type: ignore[attr-defined]
        paths = {id(module): path for path, module in self.named_modules()}
        if id(owner) not in paths:
            self.programs[argument] = owner
            paths[id(owner)] = f"programs.{argument}"
        return OwnProgram(paths[id(owner)], method)

    def forward(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raises TypeError: a pair is two functions of a batch, which have names of their own."""
        raise TypeError(
            "pair: got a call, expected pair.model(x, *context) or pair.guide(x, *context)"
        )

    def model(self, *batch: Any, **kwargs: Any) -> Any:
        """The Pyro model, with the pair's own parameters.

        Arguments:
            batch: x of shape ``(N, *x_shape)`` and its context.
            kwargs: Further arguments of the program.

        Returns:
            What the program returns.
        """
        return self._run("model", batch, kwargs)

    def guide(self, *batch: Any, **kwargs: Any) -> Any:
        """The Pyro guide, with the pair's own parameters.

        Arguments:
            batch: x of shape ``(N, *x_shape)`` and its context.
            kwargs: Further arguments of the program.

        Returns:
            What the program returns.
        """
        return self._run("guide", batch, kwargs)

    @torch.no_grad()
    def setup(self, *batch: Any) -> None:
        """Runs guide and model once, which makes the parameters of ``pyro.param`` and autoguides.

        Call it before ``parameters()`` is given to a torch optimizer. :func:`fit` does so itself.
        A pair that has them already is not changed. The modes stay as they are; buffers, such as
        those of batch norm, may change.

        Arguments:
            batch: x and its context.

        Example:
            >>> vae = presets.build("bernoulli-mlp", z_dim=2, shape=(28, 28))
            >>> vae.setup(torch.zeros(7, 28, 28))  # A VAE has all its parameters from the start.
        """
        with poutine.block():
            with holes_named(batch[0], "guide", partial(observes_holes, self.model, batch)):
                drawn = poutine.trace(self.guide).get_trace(*batch)
            poutine.replay(self.model, trace=drawn)(*batch)

    @property
    def is_set_up(self) -> bool:
        """Whether model and guide have run, and so have made all their parameters."""
        return len(self._read) == 2

    def reads(self, program: str, *batch: Any) -> list[nn.Parameter]:
        """The trained parameters that a program reads.

        Arguments:
            program: ``"model"`` or ``"guide"``.
            batch: x and its context, for a first call.
        """
        if program not in self._read:
            self.setup(*batch)
        own = dict(self.named_parameters())
        return [own[p] for p in sorted(self._read[program] & own.keys()) if own[p].requires_grad]

    def extra_repr(self) -> str:
        lines = [f"name={self.name!r}"]
        for argument, program in self._programs.programs.items():
            if not isinstance(program, OwnProgram):
                lines[0] += f", {argument}={name_of(program)}"
        lines.append(f"parameters: {counted(self)}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        own = {name: module for name, module in tables(self)[2].items() if module is not None}
        if not list(own.get("params", self).parameters()):
            own.pop("params", None)  # ``pyro.param`` made none, or not yet.
        return html.block(
            f"{type(self).__name__} {self.name!r}",
            f"parameters: {counted(self)}",
            html.modules(own),
            html.details("all modules", repr(self)),
        )

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name not in _OF_A_VAE:
                raise
        raise AttributeError(
            f"pair: has no {name!r}, which needs the three parts of a VAE: a prior, a likelihood "
            "and a posterior"
        )

    # Parameters in Pyro.

    def _run(self, program: str, args: Any, kwargs: Any) -> Any:
        """Calls a program with the pair's own tensors."""
        function = self._programs.function(program, self)
        _check_signature(program, function, args, kwargs)
        with ExitStack() as stack:
            own = stack.enter_context(self._own_parameters())
            replaced = self._programs.replaced(self)
            stack.enter_context(exchanged(replaced))
            stack.enter_context(OwnBaselines(replaced))
            if program in self._read:
                return function(*args, **kwargs)
            own.known += [t for t in (*args, *kwargs.values()) if isinstance(t, Tensor)]
            own.known += own.swapped.values()
            with watched(program, function, self, own.known) as read:
                result = function(*args, **kwargs)
            paths = {id(p): path for path, p in self.named_parameters()}
            self._read[program] = {path for key, path in paths.items() if key in read}
            self.params.is_whole = len(self._read) == 2
            return result

    @contextmanager
    def _own_parameters(self) -> Iterator[OwnParameters]:
        """A context in which Pyro's parameters are the pair's own."""
        made = {id(p) for p in self.params.parameters()}
        for module in self.modules():
            if isinstance(module, PyroModule):
                made.update(map(id, unconstrained_parameters(module)))
        swapped = self._bind(self, silent=made, bounds=self.params.bounds)
        own = OwnParameters(self, self.name, self.params, swapped, made)
        try:
            # PyroModules read the store by names that others use too, so it is another one here.
            with apart(), own, own.values():
                yield own
        finally:
            self._hand_over()
            if own.bounds.keys() - self._bound.keys():  # The program has made some.
                self._bind(bounds=self.params.bounds)
            here = {name: b for name, b in own.bounds.items() if name in self._bound}
            pyro.get_param_store().set_state({"params": {}, "constraints": here})

    def _hand_over(self) -> None:
        """Leaves parameters that a PyroModule has made, such as an autoguide's, to the module."""
        others = {
            id(p)
            for module in self.modules()
            if module is not self.params
            for p in module.parameters(recurse=False)
        }
        for name in [name for name in self.params if id(self.params[name]) in others]:
            del self.params[name]

    def bind_all(self) -> None:
        """Binds all parameters in Pyro's store, under the names that they have in a call."""
        params = getattr(self, "params", None)  # A VAE has none.
        self._bind(self, bounds=None if params is None else params.bounds)

    def _bind(
        self,
        *parts: nn.Module,
        silent: Collection[int] = (),
        bounds: Mapping[str, Constraint] | None = None,
    ) -> dict[int, Tensor]:
        """Binds the pair's parameters in Pyro's store; see :func:`param_store.bind`."""
        if is_jit_tracing():
            raise RuntimeError(
                f"{self.name}: got a trace of torch.jit, expected none: Pyro's Jit*_ELBO look "
                "parameters up by name alone, so a step of one pair could train another; use the "
                "ELBO without Jit"
            )
        if "_bound" not in vars(self):
            self._bound: dict[str, Tensor] = {}
            weakref.finalize(self, release, self._bound).atexit = False
        return bind(self, self.name, self._bound, parts, silent=silent, bounds=bounds)

    def __getstate__(self) -> dict[str, Any]:
        # A copy binds tensors of its own, so it must not take over those bound by this object.
        # Its first calls are checked anew.
        left_out: dict[str, Any] = {"_bound": None, "_read": {}}
        return {
            key: left_out.get(key, value) for key, value in vars(self).items() if key != "_bound"
        }


def _check_signature(program: str, function: Callable[..., Any], args: Any, kwargs: Any) -> None:
    """Raises TypeError unless a program takes these arguments."""
    called = function.forward if isinstance(function, nn.Module) else function
    try:
        signature = inspect.signature(called)
    except (TypeError, ValueError):  # written in C
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(
            f"{program}: {name_of(function)} does not take x and {len(args) - 1} entries of a "
            f"context ({error}), expected a program {program}(x, *context) with a parameter for "
            "each"
        ) from error


def check_pair(pair: object, argument: str = "vae") -> None:
    """Raises TypeError unless `pair` is a Pair, such as a VAE."""
    if not isinstance(pair, Pair):
        raise TypeError(f"{argument}: got {kind(pair)}, expected a VAE or a Pair")

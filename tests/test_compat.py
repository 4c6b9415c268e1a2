"""Each private name of torch and Pyro in compat.py exists and behaves as its docstring says.

These tests fail first when a new version of torch or Pyro moves such a name.
"""

import gc
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.optim
import pytest
import torch
from pyro import poutine
from pyro.infer import ELBO, Trace_ELBO, TraceEnum_ELBO
from pyro.nn import PyroModule, PyroParam
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import Distribution, Transform, constraints
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode

from pyro_vae import compat

from .conftest import needs_compiler

ATEN = torch.ops.aten


@pytest.fixture(autouse=True)
def _empty_store() -> Iterator[None]:
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


def model() -> None:
    loc = pyro.param("loc", torch.zeros(()))
    with pyro.plate("data", 3):
        z = pyro.sample("z", dist.Normal(loc, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=torch.zeros(3))


def guide() -> None:
    with pyro.plate("data", 3):
        pyro.sample("z", dist.Normal(pyro.param("mean", torch.zeros(3)), 1.0))


def test_each_name_has_a_test() -> None:
    text = Path(__file__).read_text()
    assert not [name for name in compat.__all__ if f"compat.{name}" not in text]


# Pyro.


def test_unconstrained_parameters_are_those_of_pyro_params() -> None:
    class Two(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.scale = PyroParam(torch.tensor(2.0), constraints.positive)
            self.shift = nn.Parameter(torch.zeros(()))

    module = Two()
    (own,) = compat.unconstrained_parameters(module)
    assert own is module.scale_unconstrained
    assert own.exp().item() == pytest.approx(2.0)


def test_loaded_states_wait_for_their_parameters() -> None:
    state: dict[str, Any] = {"p": {"state": {}, "param_groups": []}}
    optimizer = pyro.optim.Adam({"lr": 0.1})
    optimizer.set_state(state)
    assert compat.waiting_state(optimizer) == state
    compat.waiting_state(optimizer).clear()
    assert not compat.waiting_state(optimizer)


def test_handlers_are_those_that_are_active() -> None:
    assert not compat.handlers()
    with poutine.trace() as outer, poutine.block() as inner:
        assert list(compat.handlers()) == [outer, inner]
    assert not compat.handlers()


def test_a_parameter_site_is_seen_by_handlers() -> None:
    tensor = torch.ones(2)
    assert compat.parameter_site(tensor, name="p") is tensor
    with poutine.trace(param_only=True) as sites:
        assert compat.parameter_site(tensor, name="p") is tensor
    assert sites.trace.nodes["p"]["type"] == "param"
    assert sites.trace.nodes["p"]["value"] is tensor
    assert not pyro.get_param_store().keys()


def test_masks_of_distributions_are_found() -> None:
    normal, mask = dist.Normal(torch.zeros(3), 1.0), torch.tensor([True, False, True])
    assert compat.masked(normal) is None
    assert compat.masked(normal.to_event(1)) is None
    for distribution, events in (
        (normal.mask(mask), 0),
        (normal.mask(mask).to_event(1), 0),
        (dist.Normal(torch.zeros(3, 2), 1.0).to_event(1).mask(mask), 1),
    ):
        found = compat.masked(distribution)
        assert found is not None
        assert found[0] is mask
        assert found[1] == events
    assert compat.masked(normal.mask(False)) == (False, 0)


def test_the_stores_dicts_are_live() -> None:
    store = pyro.get_param_store()
    pyro.param("p", torch.ones(2), constraint=constraints.positive)
    tensor = compat.stored_parameters()["p"]
    assert torch.equal(tensor, torch.zeros(2)), "unconstrained: the logarithm"
    assert compat.stored_constraints() == {"p": constraints.positive}
    assert compat.stored_names() == {tensor: "p"}
    assert store.param_name(tensor) == "p"
    own = torch.full((2,), 3.0)
    compat.stored_parameters()["p"] = own
    assert torch.equal(store["p"], own.exp())
    assert store.get_state()["params"]["p"] is own
    del compat.stored_parameters()["p"], compat.stored_constraints()["p"]
    del compat.stored_names()[tensor]
    assert "p" not in store
    assert store.param_name(tensor) is None


@pytest.mark.parametrize(("particles", "plates"), [(1, 1), (5, 2)])
def test_plates_are_guessed_as_a_loss_does(particles: int, plates: int) -> None:
    guessed, own = (Trace_ELBO(particles, vectorize_particles=True) for _ in range(2))
    assert guessed.max_plate_nesting == float("inf")
    compat.guess_plates(guessed, model, guide, (), {})
    own.loss(model, guide)
    assert guessed.max_plate_nesting == own.max_plate_nesting == plates


def test_traces_of_a_loss_are_collected() -> None:
    elbo = Trace_ELBO(num_particles=2)
    with compat.collected_traces(elbo) as outer:
        elbo.loss(model, guide)
        with compat.collected_traces(elbo) as inner:
            elbo.loss(model, guide)
        elbo.loss(model, guide)
    elbo.loss(model, guide)
    assert (len(outer), len(inner)) == (6, 2)
    for model_trace, guide_trace in outer:
        assert list(model_trace.observation_nodes) == ["x"]
        assert list(guide_trace.stochastic_nodes) == ["z"]
        assert model_trace.nodes["z"]["value"] is guide_trace.nodes["z"]["value"]
    assert "_get_trace" not in vars(elbo)


def test_factors_of_a_model_are_packed_with_their_dimensions() -> None:
    """By plate and enumerated site: a class of the model alone, which is to be summed out."""

    def countable() -> None:
        with pyro.plate("data", 4):
            y = pyro.sample("y", dist.Categorical(torch.ones(3)), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(y.float(), 1.0), obs=torch.zeros(4))

    elbo = TraceEnum_ELBO(max_plate_nesting=1)
    model_trace, guide_trace = next(elbo._get_traces(countable, lambda: None, (), {}))
    costs, factors, ordering, dims, scale = compat.model_factors(model_trace, guide_trace)
    (plate,), (own,) = ordering["y"], dims
    assert not costs
    assert scale == 1
    terms = factors[frozenset(plate)]
    assert [sorted(compat.packed_dims(term)) for term in terms] == [sorted((own, plate))] * 2
    assert {term.shape for term in terms} == {torch.Size((3, 4))}


# Tensors, modules and operators of torch.


def test_changes_in_place_are_counted() -> None:
    tensor = torch.zeros(3)
    before = compat.changes(tensor)
    tensor + 1
    assert compat.changes(tensor) == before
    tensor.add_(1)
    tensor[0] = 2
    tensor.detach().mul_(2)
    assert compat.changes(tensor) == before + 3
    with torch.inference_mode():
        assert compat.changes(torch.zeros(3)) == -1


def test_tables_are_those_of_a_module() -> None:
    module = nn.BatchNorm1d(2, affine=False)
    module.inner = nn.Linear(2, 2)
    parameters, buffers, children = compat.tables(module)
    assert parameters == {"weight": None, "bias": None}
    assert buffers["running_mean"] is module.running_mean
    assert children == {"inner": module.inner}
    parameters["weight"] = nn.Parameter(torch.ones(2))
    assert module.weight is parameters["weight"], "the tables are live"


def test_schemas_tell_what_is_written_and_shared() -> None:
    assert isinstance(ATEN.add_.Tensor, compat.OpOverload)
    assert compat.schema(ATEN.add_.Tensor).is_mutable
    assert not compat.schema(ATEN.add.Tensor).is_mutable
    first, second, *_ = compat.schema(ATEN.add_.Tensor).arguments
    assert first.name == "self"
    assert first.alias_info.is_write
    assert second.alias_info is None
    (view,) = compat.schema(ATEN.t.default).returns
    assert view.alias_info is not None
    assert not view.alias_info.is_write


def test_batch_norms_write_what_their_schemas_omit() -> None:
    for operator in compat.batch_norms():
        arguments = {a.name: a.alias_info for a in compat.schema(operator).arguments}
        assert "training" in arguments
        for name in ("running_mean", "running_var"):
            assert arguments[name] is None, "the schema tells now: compile/partition.py reads it"
    x, mean, variance = torch.randn(5, 2), torch.zeros(2), torch.ones(2)
    ATEN.native_batch_norm.default(x, None, None, mean, variance, True, 0.1, 1e-5)
    torch.testing.assert_close(mean, 0.1 * x.mean(0))
    torch.testing.assert_close(variance, 0.9 + 0.1 * x.var(0))


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace.*deprecated")
def test_jit_tracing_is_seen() -> None:
    seen = []

    def function(x: Tensor) -> Tensor:
        seen.append(compat.is_jit_tracing())
        return x + 1

    function(torch.ones(2))
    torch.jit.trace(function, torch.ones(2), check_trace=False)
    assert seen == [False, True]


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_the_kernel_of_fused_adam_takes_the_step_of_adam(name: str) -> None:
    first, second = torch.randn(3, 4, requires_grad=True), torch.randn(5, requires_grad=True)
    params = [first, second]
    twins = [p.detach().clone().requires_grad_() for p in params]
    adam, twin = (
        getattr(torch.optim, name)(each, lr=0.1, weight_decay=0.2, fused=True)
        for each in (params, twins)
    )
    for step in range(3):
        for p, q in zip(params, twins, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        adam.step()
        if step == 0:
            twin.step()
            continue
        states = [twin.state[q] for q in twins]
        for state in states:
            state["step"] += 1
        means, squares, steps = (
            [state[key] for state in states] for key in ("exp_avg", "exp_avg_sq", "step")
        )
        gradients, options = [q.grad for q in twins], twin.param_groups[0]
        compat.fused_adam(twins, gradients, means, squares, steps, options)
    assert all(torch.equal(p, q) for p, q in zip(params, twins, strict=True))


def test_hooks_of_an_optimizer_are_seen() -> None:
    adam = torch.optim.Adam([torch.zeros(1, requires_grad=True)])
    assert not compat.has_hooks(adam)
    hook = adam.register_step_post_hook(lambda *_: None)
    assert compat.has_hooks(adam)
    hook.remove()
    assert not compat.has_hooks(adam)


@pytest.mark.parametrize("bias", [True, False])
def test_onednn_has_linear_layers(bias: bool) -> None:
    assert isinstance(compat.has_bfloat16_products(), bool)
    if not torch.backends.mkldnn.is_available():
        pytest.skip("needs oneDNN")
    layer = nn.Linear(5, 3, bias=bias)
    x = torch.randn(4, 5)
    torch.testing.assert_close(compat.onednn_linear(x, layer.weight, layer.bias), layer(x))


def test_a_dispatch_mode_sees_operators() -> None:
    seen = []

    class Mode(compat.TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            seen.append(func)
            return func(*args, **(kwargs or {}))

    with Mode():
        torch.ones(2).t()
    assert seen == [ATEN.ones.default, ATEN.t.default]


def test_weak_references_let_go() -> None:
    tensor = torch.ones(2)
    by_tensor = compat.WeakIdKeyDictionary({tensor: 1, torch.ones(2): 2})
    storage = compat.StorageWeakRef(tensor.untyped_storage())
    assert storage.cdata == compat.StorageWeakRef(tensor[1:].untyped_storage()).cdata
    gc.collect()
    assert list(by_tensor.values()) == [1]
    assert tensor in by_tensor
    assert not storage.expired()
    del tensor
    gc.collect()
    assert not by_tensor
    assert storage.expired()


def test_trees_are_taken_apart_and_put_together() -> None:
    tree = ((1, {"b": torch.ones(2)}), {"a": [2.0, "text"]})
    leaves, spec = compat.pytree.tree_flatten(tree)
    assert compat.pytree.tree_leaves(tree) == leaves
    assert [type(leaf) for leaf in leaves] == [int, Tensor, float, str]
    assert compat.pytree.tree_unflatten(leaves, spec) == tree
    doubled = compat.pytree.tree_map_only(float, lambda number: 2 * number, tree)
    assert doubled[1] == {"a": [4.0, "text"]}


# Tracing and compiling.


def test_fake_tensors_have_shapes_and_no_values() -> None:
    fake, errors = compat.fake_tensors()
    real = torch.ones(2, 3)
    with fake:
        x = fake.from_tensor(real, static_shapes=True)
        assert (x @ real.T).shape == (2, 2)
        for read in (lambda: x.sum().item(), lambda: bool(x.sum() > 0), lambda: x[x > 0]):
            with pytest.raises(errors):
                read()


@needs_compiler
def test_compiled_code_draws_the_numbers_of_torch() -> None:
    def noisy(x: Tensor) -> list[Tensor]:
        return [x * torch.randn_like(x), torch.rand(3)]

    x = torch.arange(8.0)
    with torch.random.fork_rng():
        run = compat.compile_graph(make_fx(noisy)(x), [x])
    for seed in range(2):
        torch.manual_seed(seed)
        expected = noisy(x)
        torch.manual_seed(seed)
        torch.testing.assert_close(list(run(x)), expected)


@needs_compiler
def test_the_compiler_is_found() -> None:
    import torch._inductor.config as config

    assert compat.cpp_compiler()
    with config.patch({"cpp.cxx": ("no-such-compiler",)}):
        assert compat.cpp_compiler() is None
    assert compat.cpp_compiler()


@needs_compiler
@pytest.mark.slow
def test_inductor_begins_with_the_first_compilation() -> None:
    """In another process, since this one may have compiled."""
    program = (
        "import torch; from pyro_vae import compat; before = compat.inductor_has_begun(); "
        "torch.compile(lambda x: x + 1)(torch.ones(2)); "
        "print(before, compat.inductor_has_begun())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "True"]


def test_unchecked_distributions_put_the_checks_back() -> None:
    def refuses() -> None:
        for wrong in (
            lambda: dist.Normal(0.0, -1.0, validate_args=True),
            lambda: before.log_prob(torch.tensor(-1.0)),
        ):
            with pytest.raises(ValueError):
                wrong()

    before = dist.Exponential(1.0, validate_args=True)
    refuses()
    with compat.unchecked_distributions():
        assert dist.Normal(0.0, -1.0, validate_args=True).scale == -1
        assert dist.MultivariateNormal(torch.zeros(2), torch.eye(2), None, None, True).rsample
        assert before.log_prob(torch.tensor(-1.0)) == 1
    refuses()
    with pytest.raises(KeyError), compat.unchecked_distributions():
        raise KeyError
    refuses()


# Names that subclasses have to bear.


def test_names_of_base_classes_are_those_that_subclasses_use() -> None:
    assert ELBO._get_trace.__isabstractmethod__
    calls = []

    class Sees(Messenger):
        def _pyro_sample(self, msg: Any) -> None:
            calls.append(msg["name"])

    class Doubles(Transform):
        domain = codomain = constraints.real

        def _call(self, x: Tensor) -> Tensor:
            calls.append("call")
            return 2 * x

        def _inverse(self, y: Tensor) -> Tensor:
            calls.append("inverse")
            return y / 2

    class Checks(dist.Normal):
        def _validate_sample(self, value: Tensor) -> None:
            calls.append("validate")

    with Sees():
        pyro.sample("z", dist.Normal(0.0, 1.0))
    assert Doubles()(Doubles().inv(torch.ones(()))) == 1
    Checks(0.0, 1.0, validate_args=True).log_prob(torch.zeros(()))
    Checks(0.0, 1.0, validate_args=False).log_prob(torch.zeros(()))
    assert calls == ["z", "inverse", "call", "validate"]


def test_states_of_base_classes_are_those_that_subclasses_keep() -> None:
    assert isinstance(Distribution._validate_args, bool)
    assert dist.Normal(0.0, 1.0, validate_args=False)._validate_args is False
    normal = dist.Normal(0.0, 1.0)
    assert type(normal._get_checked_instance(dist.Normal)) is dist.Normal
    optim = pyro.optim.Adam({"lr": 1e-3})
    optim.set_state({"p": "state"})
    assert optim._state_waiting_to_be_consumed == {"p": "state"}


def test_layers_are_traced_without_onednn() -> None:
    lstm, x = nn.LSTM(3, 4), torch.randn(2, 5, 3)

    def names() -> set[str]:
        with torch.no_grad():
            graph = make_fx(lambda x: lstm(x)[0])(x).graph
        return {str(node.target) for node in graph.nodes}

    with compat.without_onednn():
        assert not [name for name in names() if "mkldnn" in name]
    assert torch.backends.mkldnn.enabled or not torch.backends.mkldnn.is_available()


@pytest.mark.slow
@needs_compiler
def test_inductor_finds_equal_graphs_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Private counters of torch tell a graph that was found from one that was made."""
    from torch._dynamo.utils import counters

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    found = []
    for _ in range(2):
        graph = torch.fx.symbolic_trace(lambda x: (torch.relu(x) * 17,))
        counters.clear()
        code = compat.compile_graph(graph, [torch.ones(3)])
        assert code(torch.ones(3))[0].tolist() == [17.0] * 3
        found.append(counters["inductor"]["fxgraph_cache_hit"])
    assert found == [0, 1]


def test_hooks_of_modules_and_tensors_are_in_their_tables() -> None:
    module, calls = nn.Linear(2, 2), list[int]()
    assert not any(compat.module_hooks(module))
    before = sum(map(len, compat.global_hooks()))
    for name in ("forward_hook", "forward_pre_hook", "full_backward_hook"):
        getattr(module, f"register_{name}")(lambda *args: calls.append(1))
        hook = getattr(nn.modules.module, f"register_module_{name}")(lambda *args: None)
        assert sum(map(len, compat.global_hooks())) == before + 1
        hook.remove()
    module.register_full_backward_pre_hook(lambda *args: None)
    assert [len(table) for table in compat.module_hooks(module)] == [1, 1, 1, 1]
    for register in ("register_hook", "register_post_accumulate_grad_hook"):
        tensor = torch.zeros(2, requires_grad=True)
        assert not compat.tensor_hooks(tensor)
        hook = getattr(tensor, register)(lambda tensor: None)
        assert compat.tensor_hooks(tensor)
        hook.remove()
        assert not compat.tensor_hooks(tensor)
    assert not compat.tensor_hooks(2 * tensor)


def test_what_stands_between_torchs_operations_is_seen() -> None:
    class Function(TorchFunctionMode):
        pass

    assert not compat.intercepted()
    with torch.device("cpu"):
        assert not compat.intercepted()
    for mode in (compat.TorchDispatchMode(), Function(), torch.autograd.detect_anomaly(False)):
        with mode:
            assert compat.intercepted()
    assert not compat.intercepted()


@pytest.mark.skipif(
    not hasattr(torch._C._autograd, "_top_saved_tensors_default_hooks"),
    reason="torch before 2.8 does not tell",
)
def test_hooks_on_saved_tensors_are_seen() -> None:
    with torch.autograd.graph.save_on_cpu():
        assert compat.intercepted()
    assert not compat.intercepted()


def test_a_module_says_whether_torch_compiles_it() -> None:
    module = nn.Linear(2, 2)
    assert not compat.is_compiled(module)
    assert compat.is_compiled(torch.compile(module, backend="eager"))
    module.compile(backend="eager")
    assert compat.is_compiled(module)


def test_pyros_guess_of_plates_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    elbo = Trace_ELBO(num_particles=2, vectorize_particles=True)
    with caplog.at_level("INFO", "pyro"):
        compat.guess_plates(elbo, model, guide, (), {})
        assert elbo.max_plate_nesting == 2
        with compat.unlogged_guess():
            elbo._guess_max_plate_nesting(model, guide, (), {})

        class Own(compat.UnloggedELBO, Trace_ELBO):
            pass

        own = Own(num_particles=2, vectorize_particles=True)
        own._guess_max_plate_nesting(model, guide, (), {})
        assert not caplog.records
        elbo._guess_max_plate_nesting(model, guide, (), {})
    assert "Guessed" in caplog.text, "Pyro logs by this logger"

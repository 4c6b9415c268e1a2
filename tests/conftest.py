"""What all tests share: one thread a worker, a fixed seed, small data, and the full MNIST."""

import os
import signal
from collections.abc import Iterator

import matplotlib
import pytest
import torch

from pyro_vae import datasets
from pyro_vae.compat import cpp_compiler
from pyro_vae.compile import inductor
from pyro_vae.datasets import Dataset
from tests.browser import browser, opened, screenshot  # noqa: F401

os.environ.setdefault("TQDM_DISABLE", "1")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers that each use all cores slow each other down, and so do the processes they start.
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
matplotlib.use("Agg")
_LEFT_OUT = "needs the full MNIST"
_NO_GPU = "needs a GPU"


needs_compiler = pytest.mark.skipif(cpp_compiler() is None, reason="needs a C++ compiler")


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def float64() -> Iterator[None]:
    """Float64 as torch's default, where rounding is far below any tolerance."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(
    scope="module", params=["traced", pytest.param("compiled", marks=pytest.mark.slow)]
)
def code(request: pytest.FixtureRequest) -> Iterator[None]:
    """Runs graphs as they were traced, and in the slow tests as Inductor compiles them.

    Inductor takes seconds for a graph. All that the library does itself is in both.
    """
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "traced":
            patch.setattr(inductor, "compile_by_inductor", lambda traced, inputs: traced)
        yield


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return datasets.load("digits")


@pytest.fixture(scope="session", autouse=True)
def ctrl_c() -> Iterator[None]:
    """Ctrl-C as in a terminal. A shell lets processes in its background ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def mnist() -> Dataset:
    try:
        return datasets.load("mnist")
    except FileNotFoundError:
        pytest.skip(_LEFT_OUT)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Starts with the notebooks: what takes longest must not be what is left for one worker.

    Tests of a GPU are left out where there is none.
    """
    for item in items:
        if item.get_closest_marker("cuda") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(_NO_GPU))
    items.sort(key=lambda item: not item.nodeid.startswith("tests/test_notebooks.py"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    uncompiled = sum("needs a C++ compiler" in str(report.longrepr) for report in skipped)
    if uncompiled:
        terminalreporter.section("left out: they need a C++ compiler")
        terminalreporter.line(f"  {uncompiled} tests; install g++ or clang++ to run them")
    no_gpu = sum(_NO_GPU in str(report.longrepr) for report in skipped)
    if no_gpu:
        terminalreporter.section("left out: they need a GPU")
        terminalreporter.line(f"  {no_gpu} tests; pytest -m cuda runs them where there is one")
    unseen = sum("needs chromium" in str(report.longrepr) for report in skipped)
    if unseen:
        terminalreporter.section("left out: they need Chromium")
        terminalreporter.line(f"  {unseen} tests of pages; Debian's package chromium runs them")
    left_out = [report.nodeid for report in skipped if _LEFT_OUT in str(report.longrepr)]
    if left_out:
        terminalreporter.section("left out: they need the full MNIST")
        for name in left_out:
            terminalreporter.line(f"  {name}")
        terminalreporter.line(
            "To run them, connect to the network, or set PYRO_VAE_DATA to a folder that holds "
            "MNIST/raw in torchvision's layout."
        )

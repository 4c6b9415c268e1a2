"""Times of variants that take turns, as tables; peak memory of a function."""

import statistics
import threading
import time
from collections.abc import Callable, Mapping

from pyro_vae.utils.tables import markdown

Runs = Mapping[str, Callable[[], object]]


def in_turns(variants: Runs, rounds: int, warm_up: int = 3) -> dict[str, list[float]]:
    """Seconds of each variant in each round, after some that do not count."""
    for run in variants.values():
        for _ in range(warm_up):
            run()
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def compared(what: str, variants: Runs, rounds: int, warm_up: int = 3) -> str:
    """A table of median times, and of ratios to the first variant with their quartiles."""
    seconds = in_turns(variants, rounds, warm_up)
    first = next(iter(seconds.values()))
    rows = []
    for name, times in seconds.items():
        ratios = [t / f for t, f in zip(times, first, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        median = statistics.median(times)
        rows.append([name, f"{1e3 * median:.1f}", f"{middle:.2f}", f"{low:.2f}–{high:.2f}"])
    return markdown([what, "ms (median)", "ratio", "quartiles"], rows)


def peak_memory(run: Callable[[], object]) -> float:
    """MiB by which the process grew at the most while a function ran."""
    import psutil  # Machines with a GPU may not have it.

    process, done = psutil.Process(), threading.Event()
    before = peak = process.memory_info().rss

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        run()
    finally:
        done.set()
        watcher.join()
    return (peak - before) / 2**20

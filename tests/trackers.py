"""Stand-ins for W&B and MLflow, with the functions that the page on trackers calls."""

from types import SimpleNamespace
from typing import Any

Calls = list[tuple[str, Any]]


def wandb(calls: Calls) -> SimpleNamespace:
    def init(**options: Any) -> SimpleNamespace:
        calls.append(("init", options))
        return SimpleNamespace(
            config=SimpleNamespace(update=lambda values: calls.append(("config", values))),
            log=lambda values, step: calls.append(("log", (values, step))),
            finish=lambda: calls.append(("finish", None)),
        )

    return SimpleNamespace(init=init, Image=lambda figure: ("image", figure))


def mlflow(calls: Calls) -> SimpleNamespace:
    return SimpleNamespace(
        log_params=lambda values: calls.append(("config", values)),
        log_metrics=lambda values, step: calls.append(("log", (values, step))),
        log_figure=lambda figure, file: calls.append(("figure", (figure, file))),
        end_run=lambda: calls.append(("finish", None)),
    )

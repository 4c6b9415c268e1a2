"""Models: further pairs that are composed of parts, one in each file."""

__all__: list[str] = []


def __dir__() -> list[str]:
    return __all__

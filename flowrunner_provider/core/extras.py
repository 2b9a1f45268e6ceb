"""Optional packages: imported where they are used, and missed with the command that mends it."""

from __future__ import annotations

import importlib
from typing import Any

from flowrunner_provider.core.errors import MissingExtra

__all__ = ["load"]


def load(module: str, *, extra: str, needed_for: str) -> Any:
    """Import ``module``.

    :param extra: the extra of this distribution that brings it.
    :param needed_for: what the user was about to do, for the message.
    :raises MissingExtra: naming the ``pip install`` to run. An import that fails inside an installed
        package is a fault of that package, and is raised as it is.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise
        raise MissingExtra(extra, needed_for) from error

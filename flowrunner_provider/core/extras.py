"""Imports of optional packages; a missing one raises an error with the ``pip install`` command."""

from __future__ import annotations

import importlib
from typing import Any

from flowrunner_provider.core.errors import MissingExtra

__all__ = ["load"]


def load(module: str, *, extra: str, needed_for: str) -> Any:
    """Import ``module``.

    :param extra: the extra of this distribution that contains it.
    :param needed_for: what the user was about to do, for the message.
    :raises MissingExtra: with the ``pip install`` command. A failing import inside an installed package is raised
        unchanged.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise
        raise MissingExtra(extra, needed_for) from error

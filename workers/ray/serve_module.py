"""Ray Serve, imported when it is needed, and quietly."""

from __future__ import annotations

import logging
import warnings
from typing import Any


def imported_serve() -> Any:  # Any: a module of Ray
    """The module ``ray.serve``, with what it would tell everybody about its work left out.

    Importing it sets its logger to say everything, so this is to be called before anything of Serve is used.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Serve declares its settings in a way that pydantic deprecates
        from ray import serve
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    return serve

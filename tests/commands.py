"""Runs commands of `dsp` and `models` in this process: a new one takes longer than most of them."""

import os
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from unittest.mock import patch

from dsp.__main__ import main as dsp_main


def environment(settings: dict[str, str]) -> dict[str, str]:
    """Return this process's environment with these of the platform's variables and no others."""
    return {name: value for name, value in os.environ.items() if not name.startswith("DSP_")} | settings


def dsp(settings: dict[str, str], *arguments: str, status: int = 0) -> tuple[str, str]:
    """Run a command of `dsp`; return what it wrote to stdout and stderr."""
    return run(dsp_main, settings, *arguments, status=status)


def run(
    main: Callable[[list[str]], int], settings: dict[str, str], *arguments: str, status: int = 0
) -> tuple[str, str]:
    """Run a command, which must end with `status`; return what it wrote to stdout and stderr."""
    out, err = StringIO(), StringIO()
    with patch.dict(os.environ, environment(settings), clear=True), redirect_stdout(out), redirect_stderr(err):
        try:
            ended: object = main(list(arguments))
        except SystemExit as misused:
            ended = misused.code
    assert ended == status, err.getvalue()
    assert "Traceback" not in err.getvalue()
    return out.getvalue(), err.getvalue()

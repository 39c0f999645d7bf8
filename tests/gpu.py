"""What tests ask about a GPU."""

import pytest

from dsp.kernel.errors import UnavailableError
from models.serving.session import choose


def refusal() -> str:
    """Return why CUDA cannot be chosen here; a test of that is skipped where it can."""
    try:
        choose("cuda")
    except UnavailableError as fault:
        return str(fault)
    pytest.skip("there is a GPU")

"""What import-linter cannot see: what a process really loads. (The contracts themselves are in pyproject.toml.)"""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN = {
    "bidder.app": ("fastapi", "sqlalchemy", "alembic", "pydantic", "lightgbm", "onnx", "pyarrow", "pandas", "sklearn"),
    "models.serving.bundle": ("lightgbm", "onnx", "onnxmltools", "pyarrow", "matplotlib", "sklearn"),
    "dsp.api.app": ("onnxruntime", "lightgbm", "pyarrow", "bidder"),
}


@pytest.mark.parametrize("module", FORBIDDEN)
def test_process_loads_only_what_it_needs(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not set(FORBIDDEN[module]) & set(loaded.stdout.split())


def test_import_contracts_hold() -> None:
    checked = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports"))], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout

"""What import-linter cannot see: what a process really loads. (The contracts themselves are in pyproject.toml.)"""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("dsp", "models", "bidder", "loadtest")
FORBIDDEN = {
    "bidder.app": (
        "fastapi",
        "sqlalchemy",
        "alembic",
        "pydantic",
        "lightgbm",
        "onnx",
        "pyarrow",
        "pandas",
        "sklearn",
        "ibis",
        "aiokafka",
    ),
    "models.serving.bundle": ("lightgbm", "onnx", "onnxmltools", "pyarrow", "matplotlib", "sklearn"),
    "dsp.api.app": ("onnxruntime", "lightgbm", "pyarrow", "bidder"),
}  # fmt: skip


#: What few installations have, and the only files that may name it.
APART = {
    "aiokafka": "dsp/stream/kafka/",
    "deploy": "loadtest/cluster/",
    "hiredis": "dsp/cache/",
    "locust": "loadtest/locustfile.py",
    "opentelemetry": "dsp/kernel/tracing.py",
    "pyspark": "models/training/engine.py",
    "redis": "dsp/cache/",
    "torch": "models/training/network.py",
}


@pytest.mark.parametrize("module", FORBIDDEN)
def test_process_loads_only_what_it_needs(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not set(FORBIDDEN[module]) & set(loaded.stdout.split())


def test_every_import_is_declared() -> None:
    """The packages import what `make demo` installs, and what other extras install only where it is set apart."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["cpu"], *extras["api"], *extras["train"]]
    declared = {re.split(r"[\[><=; ]", each)[0].lower().replace("-", "_") for each in wanted}
    provided = {"fastapi": {"starlette"}, "ibis_framework": {"ibis"}}  # under another name, and versioned with it
    declared |= {name for each in declared & set(provided) for name in provided[each]}
    imported = {
        (str(path.relative_to(ROOT)), name.partition(".")[0])
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom) and node.level == 0
            else []
        )
    }
    ours = {*PACKAGES, *sys.stdlib_module_names}
    undeclared = {(path, name) for path, name in imported if name not in ours and name.lower() not in declared}
    assert not {(path, name) for path, name in undeclared if not path.startswith(APART.get(name, "none"))}


def test_import_contracts_hold() -> None:
    checked = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports"))], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout

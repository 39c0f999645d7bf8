"""Sessions, bound memory and stacks of rows: on the CPU as they are, on a GPU as far as can be told without one."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from dsp.kernel.errors import UnavailableError
from models.serving import session
from models.serving.session import Device, Session, choose
from models.serving.stack import Stack
from models.training.network_export import NetworkShape, random_weights, to_onnx

ROOT = Path(__file__).parents[3]
WIDTH = 24
GRAPH = to_onnx(random_weights(NetworkShape(WIDTH, 1, 8, (16,)), seed=1), form="full")


def drawn(rows: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((rows, WIDTH)).astype(np.float32)


def test_bound_memory_gives_what_a_run_gives_for_whatever_it_holds() -> None:
    made = Session(GRAPH)
    rows = drawn(7)
    memory = made.bind(rows)
    for seed in range(3):
        rows[...] = drawn(7, seed)
        memory()
        np.testing.assert_allclose(memory.output, made.run(rows), rtol=1e-6)


def test_a_stack_gives_each_its_own_rows() -> None:
    made = Session(GRAPH)
    stack = Stack(made, 16)
    for counts in ([1], [3, 1, 5], [16], [2] * 8):
        items = [drawn(rows, seed) for seed, rows in enumerate(counts)]
        for item, found in zip(items, stack(items), strict=True):
            np.testing.assert_allclose(found, made.run(item), rtol=1e-4, atol=1e-5)


class PretendGpu:
    """A session whose provider reads `cuda`, so that sizes are padded; notes them."""

    provider = "cuda"

    def __init__(self) -> None:
        self._real = Session(GRAPH)
        self.input_width = WIDTH
        self.sizes: list[int] = []

    def bind(self, rows: NDArray[np.float32]) -> Any:
        self.sizes.append(len(rows))
        return self._real.bind(rows)


def test_a_gpu_sees_warm_sizes_alone_and_the_padding_reaches_nobody() -> None:
    pretended = PretendGpu()
    stack = Stack(pretended, 12)  # type: ignore[arg-type]
    assert sorted(pretended.sizes) == [1, 2, 4, 8, 16]
    stack([drawn(12)])
    items = [drawn(3, 1), drawn(2, 2)]
    found = stack(items)
    assert [len(rows) for rows in found] == [3, 2]
    for item, rows in zip(items, found, strict=True):
        np.testing.assert_allclose(rows, Session(GRAPH).run(item), rtol=1e-4, atol=1e-5)
    assert len(pretended.sizes) == 5


@pytest.mark.parametrize(
    ("batching", "provider", "expected"),
    [
        ("auto", "cpu", False),
        ("auto", "cuda", True),
        ("never", "cuda", False),
        ("always", "cpu", True),
    ],
)
def test_batches_are_for_gpus_unless_said_otherwise(batching: Any, provider: Any, expected: bool) -> None:
    assert Device("cuda", batching, 8).batches(provider) is expected


def test_without_a_gpu_the_cpu_serves_unless_a_gpu_is_demanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert choose("cpu") == choose("auto") == "cpu"
    with pytest.raises(UnavailableError, match="CPU build"):
        choose("cuda")


class FakeRuntime:
    """ONNX Runtime as its GPU build behaves: with a device, without one, or with one that the graph does not reach."""

    def __init__(self, device: bool = True, reached: bool = True) -> None:
        self.device = device
        self.reached = reached
        self.asked: list[str] = []
        self.OrtValue = SimpleNamespace(ortvalue_from_shape_and_type=self._allocate)
        self.SessionOptions = onnxruntime.SessionOptions

    def get_available_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def set_default_logger_severity(self, level: int) -> None: ...

    def preload_dlls(self) -> None:
        print("Failed to load")  # as the real one does, whatever else is on standard output

    def _allocate(self, *arguments: object) -> None:
        if not self.device:
            raise RuntimeError("CUDA failure 100: no CUDA-capable device\n is detected")

    def InferenceSession(self, model: bytes, options: Any, providers: list[Any], enable_fallback: int) -> Any:  # noqa: N802
        self.asked = [provider if isinstance(provider, str) else provider[0] for provider in providers]
        made = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        found = [provider for provider in self.asked if self.reached or not provider.startswith("CUDA")]
        return SimpleNamespace(get_providers=lambda: found, get_inputs=made.get_inputs, get_outputs=made.get_outputs)


def test_a_device_is_found_by_taking_memory_of_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(session, "onnxruntime", FakeRuntime())
    assert (choose("auto"), choose("cuda"), choose("cpu")) == ("cuda", "cuda", "cpu")
    monkeypatch.setattr(session, "onnxruntime", FakeRuntime(device=False))
    assert choose("auto") == "cpu"
    with pytest.raises(UnavailableError, match="no CUDA-capable device is detected"):
        choose("cuda")
    assert capsys.readouterr().out == ""


def test_trees_never_go_to_the_gpu_and_networks_do_or_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = FakeRuntime()
    monkeypatch.setattr(session, "onnxruntime", runtime)
    assert Session(GRAPH, "cuda").provider == "cuda"
    assert runtime.asked == ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert Session(_trees(), "cuda").provider == "cpu"
    assert runtime.asked == ["CPUExecutionProvider"]
    monkeypatch.setattr(session, "onnxruntime", FakeRuntime(reached=False))
    with pytest.raises(UnavailableError, match="did not take"):
        Session(GRAPH, "cuda")


def _trees() -> bytes:
    """One stump."""
    from onnx import TensorProto, helper

    node = helper.make_node(
        "TreeEnsembleRegressor",
        ["x"],
        ["y"],
        domain="ai.onnx.ml",
        nodes_treeids=[0, 0, 0],
        nodes_nodeids=[0, 1, 2],
        nodes_featureids=[0, 0, 0],
        nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"],
        nodes_values=[0.5, 0.0, 0.0],
        nodes_truenodeids=[1, 0, 0],
        nodes_falsenodeids=[2, 0, 0],
        target_treeids=[0, 0],
        target_nodeids=[1, 2],
        target_ids=[0, 0],
        target_weights=[1.0, 2.0],
        n_targets=1,
    )
    graph = helper.make_graph(
        [node],
        "stump",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 1])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


def test_onnx_runtime_tells_nobody_and_leaves_nothing_at_home(tmp_path: Path) -> None:
    """By itself, and elsewhere than in CI, it makes an id of the machine and a queue of what it uploads."""
    load = (sys.executable, "-c", "import models.serving.session")
    subprocess.run(load, env={"HOME": str(tmp_path)}, cwd=ROOT, check=True, timeout=60)
    assert not [each for each in tmp_path.rglob("*") if each.is_file()]

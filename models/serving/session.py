"""ONNX Runtime sessions: which device runs a graph, and memory bound to it. The one place that names providers."""

import contextlib
import io
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
from numpy.typing import NDArray

from dsp.kernel.errors import UnavailableError

#: Where graphs run; `auto` is the GPU where there is one that ONNX Runtime can use, the CPU otherwise.
Provider = Literal["cpu", "cuda"]
Choice = Literal["auto", "cpu", "cuda"]
#: Whether rows of several impressions are run together; `auto` where the graph runs on a GPU.
Batching = Literal["auto", "never", "always"]
Arrays = Mapping[str, NDArray[Any]]

_CUDA = "CUDAExecutionProvider"
_SILENT = 4
_WARNING = 2
#: TF32 keeps ten bits of a product's factors: too few to give what the CPU gives within 1e-5.
_CUDA_OPTIONS = {"device_id": "0", "use_tf32": "0"}
#: ONNX Runtime has kernels for trees on the CPU alone; elsewhere each call would only copy there and back.
_TREES = b"TreeEnsemble"
_TYPES: Mapping[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
}


class Device(NamedTuple):
    """Where graphs are asked to run, and how many rows of several impressions at once at most."""

    provider: Provider = "cpu"
    batching: Batching = "never"
    rows_max: int = 1

    def batches(self, provider: Provider) -> bool:
        """Tell whether a graph that runs there gets rows of several impressions."""
        return self.batching == "always" or (self.batching == "auto" and provider == "cuda")


CPU = Device()


def choose(wanted: Choice) -> Provider:
    """Return where graphs are to run.

    Raises:
        UnavailableError: CUDA is demanded, and this build of ONNX Runtime, its libraries or a device are missing.
    """
    if wanted == "cpu":
        return "cpu"
    fault = _cuda_fault()
    if fault and wanted == "cuda":
        raise UnavailableError(f"no GPU for ONNX Runtime: {fault}")
    return "cpu" if fault else "cuda"


def _cuda_fault() -> str:
    """Return why ONNX Runtime cannot use a GPU; empty where it can, proven by taking four bytes of its memory."""
    if _CUDA not in onnxruntime.get_available_providers():
        return "this is its CPU build; the extra `gpu` installs the other"
    onnxruntime.set_default_logger_severity(_SILENT)  # the reason is returned, not written all over standard error
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            onnxruntime.preload_dlls()  # the libraries that the extra `gpu` installs are on no search path
        onnxruntime.OrtValue.ortvalue_from_shape_and_type([1], np.float32, "cuda", 0)
    except Exception as fault:  # ONNX Runtime's errors have no common base of their own
        return " ".join(str(fault).split())
    finally:
        onnxruntime.set_default_logger_severity(_WARNING)
    return ""


class Session:
    """A graph on a device, one thread a call. It may be called from several threads; `Memory` may not."""

    def __init__(self, model: bytes, provider: Provider = "cpu") -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        #: Where this graph runs: trees stay on the CPU, whatever is asked.
        self.provider: Provider = "cpu" if _TREES in model else provider
        providers: list[Any] = ["CPUExecutionProvider"]
        if self.provider == "cuda":
            providers.insert(0, (_CUDA, _CUDA_OPTIONS))
        #: ONNX Runtime's own session, which would replace a GPU that fails by the CPU in silence.
        self.runtime = onnxruntime.InferenceSession(model, options, providers=providers, enable_fallback=0)
        if self.provider == "cuda" and _CUDA not in self.runtime.get_providers():
            raise UnavailableError("ONNX Runtime did not take the graph to the GPU")
        self._inputs = [(node.name, _TYPES[node.type], node.shape) for node in self.runtime.get_inputs()]
        self._outputs = [(node.name, _TYPES[node.type], node.shape) for node in self.runtime.get_outputs()]

    @property
    def metadata(self) -> dict[str, str]:
        """Return the graph's metadata_props."""
        return dict(self.runtime.get_modelmeta().custom_metadata_map)

    def run(self, output: str, inputs: Arrays) -> NDArray[Any]:
        """Return one output of inputs of any number of rows, in memory of its own."""
        (found,) = self.runtime.run((output,), dict(inputs))
        return np.asarray(found)

    def blank(self, rows: int) -> dict[str, NDArray[Any]]:
        """Return zeroed inputs in which every axis that the graph leaves open has so many entries."""
        return {name: np.zeros(_shape(shape, {}, rows), kind) for name, kind, shape in self._inputs}

    def bind(self, inputs: Arrays) -> "Memory":
        """Return what runs the graph on these arrays, whatever they hold at the time of each call."""
        return Memory(self.runtime, self.provider, inputs, self._allocate(inputs))

    def _allocate(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Return memory for the outputs, which have the inputs' open axes."""
        axes = {
            axis: size
            for name, _, shape in self._inputs
            for axis, size in zip(shape, inputs[name].shape, strict=True)
            if isinstance(axis, str)
        }
        return {name: np.zeros(_shape(shape, axes, 0), kind) for name, kind, shape in self._outputs}


class Memory:
    """Arrays bound to a session: write into `inputs`, call, read `outputs`. One thread at a time.

    A run on bound memory does what a run with passed arrays does, and costs about half. On a GPU the inputs have a copy
    there, which each call renews.
    """

    def __init__(self, session: Any, provider: Provider, inputs: Arrays, outputs: Arrays) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self._run = session.run_with_iobinding
        self._binding = session.io_binding()
        self._copies: list[tuple[Any, NDArray[Any]]] = []
        for name, array in inputs.items():
            if provider == "cuda":
                copy = onnxruntime.OrtValue.ortvalue_from_numpy(array, "cuda", 0)
                self._binding.bind_ortvalue_input(name, copy)
                self._copies.append((copy, array))
            else:
                self._binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        for name, array in outputs.items():
            self._binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)

    def __call__(self) -> None:
        """Run the graph."""
        for copy, array in self._copies:
            copy.update_inplace(array)
        self._run(self._binding)


def _shape(shape: list[int | str], axes: Mapping[str, int], rows: int) -> tuple[int, ...]:
    return tuple(axes.get(size, rows) if isinstance(size, str) else size for size in shape)

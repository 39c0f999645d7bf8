"""ONNX Runtime sessions: which device runs a graph, and memory bound to it. The one place that names providers."""

import contextlib
import io
import os
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dsp.kernel.errors import UnavailableError

# Its official builds tell Microsoft of each process and its models, and keep an id of the machine under HOME. They read
# this as they are loaded, so later is too late.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime  # type: ignore[import-untyped]

#: Where graphs run; `auto` is the GPU where there is one that ONNX Runtime can use, the CPU otherwise.
Provider = Literal["cpu", "cuda"]
Choice = Literal["auto", "cpu", "cuda"]
#: Whether rows of several impressions are run together; `auto` where the graph runs on a GPU.
Batching = Literal["auto", "never", "always"]
Floats = NDArray[np.float32]

_CUDA = "CUDAExecutionProvider"
_SILENT = 4
_WARNING = 2
#: TF32 keeps ten bits of a product's factors: too few to give what the CPU gives within 1e-5.
_CUDA_OPTIONS = {"device_id": "0", "use_tf32": "0"}
#: ONNX Runtime has kernels for trees on the CPU alone; elsewhere each call would only copy there and back.
_TREES = b"TreeEnsemble"


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
    """A graph on a device, one thread a call. It may be called from several threads; `Memory` may not.

    A graph takes one matrix of rows and gives another, both float32.
    """

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
        (taken,), (given,) = self.runtime.get_inputs(), self.runtime.get_outputs()
        self.input, self.output = taken.name, given.name
        #: How many columns the graph takes, and gives.
        self.input_width, self.output_width = taken.shape[1], given.shape[1]

    @property
    def metadata(self) -> dict[str, str]:
        """Return the graph's metadata_props."""
        return dict(self.runtime.get_modelmeta().custom_metadata_map)

    def run(self, rows: Floats) -> Floats:
        """Return what the graph makes of any number of rows, in memory of its own."""
        (found,) = self.runtime.run((self.output,), {self.input: rows})
        return np.asarray(found)

    def bind(self, rows: Floats) -> "Memory":
        """Return what runs the graph on this array, whatever it holds at the time of each call."""
        return Memory(self, rows)


class Memory:
    """Arrays bound to a session: write into `input`, call, read `output`. One thread at a time.

    A run on bound memory does what a run with passed arrays does, and costs about half. On a GPU the input has a copy
    there, which each call renews.
    """

    def __init__(self, session: Session, rows: Floats) -> None:
        self.input = rows
        self.output = np.zeros((len(rows), session.output_width), dtype=np.float32)
        self._run = session.runtime.run_with_iobinding
        self._binding = session.runtime.io_binding()
        self._copy: Any = None
        if session.provider == "cuda":
            self._copy = onnxruntime.OrtValue.ortvalue_from_numpy(rows, "cuda", 0)
            self._binding.bind_ortvalue_input(session.input, self._copy)
        else:
            self._binding.bind_input(session.input, "cpu", 0, np.float32, rows.shape, rows.ctypes.data)
        found = self.output
        self._binding.bind_output(session.output, "cpu", 0, np.float32, found.shape, found.ctypes.data)

    def __call__(self) -> None:
        """Run the graph."""
        if self._copy is not None:
            self._copy.update_inplace(self.input)
        self._run(self._binding)

"""A trained network as it leaves training: what it says, and the files of it that are served. Needs no PyTorch."""

from dataclasses import dataclass, replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.serving import npz
from models.serving.embedding import Inputs, Int64s
from models.serving.network import ARRAYS, GRAPH, HEADS, LAYOUT, SPEC_KEY, Shares
from models.training.network_export import NetworkWeights, logits, share_weights, to_onnx

_CHUNK_ROWS = 16_384


@dataclass(frozen=True, slots=True)
class Network:
    """A trained network; `steps` is how many batches predict later rows best."""

    inputs: Inputs
    weights: NetworkWeights
    spec: str  # the content hash of the feature spec
    steps: int

    def logits(self, requests: Int64s, ads: Int64s) -> NDArray[np.float64]:
        """Return log-odds before calibration, float64 (n, 2): click, and conversion given a click.

        Request rows are (n or 1, R), ad rows (n, A). Computed in double precision from inputs in single.
        """
        found = np.empty((len(ads), HEADS))
        for start in range(0, len(ads), _CHUNK_ROWS):
            part = slice(start, start + _CHUNK_ROWS)
            inputs = self.inputs(requests[part] if len(requests) > 1 else requests, ads[part])
            found[part] = logits(self.weights, inputs)
        return found

    def shifted(self, ctr: float) -> "Network":
        """Return a network whose log-odds of a click are higher by so much."""
        bias = self.weights.bias.copy()
        bias[0] += ctr
        return replace(self, weights=replace(self.weights, bias=bias))

    def files(self) -> dict[str, bytes]:
        """Return the files of a bundle that models.serving.network.restore reads."""
        made = to_onnx(self.weights, metadata={SPEC_KEY: self.spec})
        shares = Shares(*share_weights(self.weights))
        arrays = npz.write({**self.inputs.tables._asdict(), **shares._asdict()})
        return {GRAPH: made, ARRAYS: arrays, LAYOUT: msgspec.json.encode(self.inputs.layout)}

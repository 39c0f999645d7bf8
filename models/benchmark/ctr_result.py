"""What the click model benchmark found, and its JSON."""

from dataclasses import dataclass
from typing import Any

from models.evaluation.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Scored:
    """How good a model's predictions for the test file are."""

    metrics: Metrics
    by_advertiser: dict[str, dict[str, float]]
    train_seconds: float

    def as_json(self) -> dict[str, Any]:
        """Return the scores under the names of the command's contract."""
        found = self.metrics
        return {
            "rows": found.rows,
            "auc": found.auc,
            "logloss": found.log_loss,
            "ne": found.normalised_entropy,
            "pcoc": found.pcoc,
            "ece": found.ece,
            "train_seconds": round(self.train_seconds, 2),
            "by_advertiser": self.by_advertiser,
        }


@dataclass(frozen=True, slots=True)
class Result:
    """Scores of each model and of the blend; `winner` is what the nightly would serve, `absent` says why a model is not
    there."""

    models: dict[str, Scored]
    blend: Scored
    weights: dict[str, float]
    winner: str
    settings: dict[str, dict[str, Any]]
    baselines: dict[str, Scored]
    absent: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        """Return the command's result with plain containers."""
        found = {
            "models": {name: scored.as_json() for name, scored in self.models.items()},
            "blend": {**self.blend.as_json(), "weights": self.weights},
            "winner": self.winner,
            "settings": self.settings,
            "absent": self.absent,
        }
        if self.baselines:
            found["baselines"] = {name: scored.as_json() for name, scored in self.baselines.items()}
        return found

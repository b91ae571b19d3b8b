"""Scores frozen backbones on labelled features before any training, and compares the ranking with a finished study."""

from tools.ranking.agreement import Agreement, weighted_tau
from tools.ranking.logme import logme
from tools.ranking.probes import knn_hits, probe_hits
from tools.ranking.samples import Samples

__all__ = ["Agreement", "Samples", "knn_hits", "logme", "probe_hits", "weighted_tau"]

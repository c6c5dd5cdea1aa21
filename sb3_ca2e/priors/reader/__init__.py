"""
Read what others have saved, without executing anything in it.

A model's zip, a ``vecnormalize.pkl`` and the RL Zoo's YAML hold pickles and tags that run code when they are loaded in
the usual way. Here they are decoded into plain values, and what is needed is rebuilt from tables of what is known.
"""

from sb3_ca2e.priors.reader.attributes import RECURRENT, saved_attributes
from sb3_ca2e.priors.reader.config import read_yaml
from sb3_ca2e.priors.reader.errors import UntrustedAgentError
from sb3_ca2e.priors.reader.model import SavedAgent, read_agent
from sb3_ca2e.priors.reader.statistics import NormalizationStatistics, read_vec_normalize

__all__ = [
    "RECURRENT",
    "NormalizationStatistics",
    "SavedAgent",
    "UntrustedAgentError",
    "read_agent",
    "read_vec_normalize",
    "read_yaml",
    "saved_attributes",
]

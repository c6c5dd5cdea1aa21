"""The RL Zoo: CA2E's algorithms in its scripts, their hyperparameters, and a command line."""

from sb3_ca2e.zoo.registration import register

__all__ = ["register"]

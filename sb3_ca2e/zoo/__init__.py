"""Integration with the RL Zoo: algorithms for its scripts, hyperparameters, and a command line."""

from sb3_ca2e.zoo.registration import register

__all__ = ["register"]

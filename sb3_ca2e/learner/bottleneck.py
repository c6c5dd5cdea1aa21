"""Finds what bounds a run from the time that learner and actors wait for each other, and what to change."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Shares:
    """
    Fractions of time, from 0 to 1.

    :param learner_wait: fraction of the learner's time spent waiting for transitions
    :param actor_wait: fraction of the actors' time spent waiting for the learner
    :param environments: fraction of the actors' remaining time spent in steps and resets of environments
    :param inference: fraction of the same time spent in networks and prior agents; the rest is recording and handing
        over
    :param updates: fraction of the learner's remaining time spent in updates; the rest is storing transitions and
        callbacks
    """

    learner_wait: float
    actor_wait: float
    environments: float
    inference: float
    updates: float

    @property
    def bottleneck(self) -> str:
        """
        The bottleneck: "environment", "inference", "transport" or "learner".

        The side that waits less bounds the run; the bottleneck is what takes most of its time.
        """
        if self.actor_wait > self.learner_wait:
            return "learner" if self.updates >= 0.5 else "transport"
        transport = 1.0 - self.environments - self.inference
        return max((self.environments, "environment"), (self.inference, "inference"), (transport, "transport"))[1]


#: Effect of running the actors' networks elsewhere.
_ELSEWHERE = {
    "device": "inference='device' runs the actors' networks on the learner's device, in one pass for all",
    "actor": "inference='actor' runs the actors' networks in their processes, and leaves the learner's to the updates",
}


def advice(shares: Shares, n_actors: int, n_processes: int, n_cores: int, other_inference: str | None = None) -> str:
    """
    Describe what bounds a run and what to change, in one line.

    :param shares: fractions of time of the run
    :param n_actors: number of slots
    :param n_processes: number of actor processes; 0 if actors run in the learner's process
    :param n_cores: number of available cores
    :param other_inference: the value of ``inference`` that is not in use, None if there is no choice
    :return: the bottleneck, how long each side waited, and what to change
    """
    kind = shares.bottleneck
    waited = f"the learner waited {shares.learner_wait:.0%} of its time, the actors {shares.actor_wait:.0%}"
    by_learner = shares.actor_wait > shares.learner_wait
    if kind == "learner":
        change = (
            "To collect faster, make fewer updates per transition (a larger train_freq, fewer gradient_steps), use "
            "smaller networks or batches, or another device"
        )
        if n_processes > 1:
            change += f"; you could also lower n_processes (now {n_processes})"
    elif kind == "transport":
        change = (
            "Storing and callbacks take longer than updates: use cheaper callbacks or larger ticks (more n_envs)"
            if by_learner
            else f"Recording takes longer than stepping: use more slots per process (n_actors={2 * n_actors})"
        )
    else:
        change = _for_more_actors(kind, n_actors, n_processes, n_cores)
        if shares.learner_wait > 0.3:
            change += "; more updates per transition (gradient_steps) would cost little time"
    if other_inference is not None and (kind == "inference" or (kind, other_inference) == ("learner", "actor")):
        change += f"; {_ELSEWHERE[other_inference]}"
    return f"{kind}-bound: {waited}. {change}."


def _for_more_actors(kind: str, n_actors: int, n_processes: int, n_cores: int) -> str:
    if n_processes == 0:
        return "Use execution='async': actors then collect in their own processes while the learner updates"
    if n_processes < n_cores:
        more = f"Use more processes: n_processes={n_cores} for {n_cores} cores"
        return more if n_actors >= n_cores else f"{more}, and n_actors={n_cores}"
    if kind == "inference":
        return f"Use smaller networks, or more slots, which share one pass (n_actors={2 * n_actors})"
    return (
        f"{n_processes} processes on {n_cores} cores: use a faster environment or, if its steps wait for other "
        f"things than a core, more processes (n_processes={2 * n_processes}, n_actors={max(n_actors, 2 * n_processes)})"
    )

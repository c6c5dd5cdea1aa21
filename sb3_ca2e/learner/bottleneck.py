"""What bounds a run, from the time that its sides spent waiting for each other, and what to change."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Shares:
    """
    Shares of time, from 0 to 1.

    :param learner_wait: of the learner's, spent waiting for transitions
    :param actor_wait: of the actors', spent waiting for the learner
    :param environments: of what the actors did meanwhile, steps and resets of environments
    :param inference: of the same, their networks and prior agents; the rest is recording and handing over
    :param updates: of what the learner did meanwhile, updates; the rest is storing transitions and callbacks
    """

    learner_wait: float
    actor_wait: float
    environments: float
    inference: float
    updates: float

    @property
    def bottleneck(self) -> str:
        """
        "environment", "inference", "transport" or "learner".

        The side that waits less bounds the run, and of what it does that which takes longest.
        """
        if self.actor_wait > self.learner_wait:
            return "learner" if self.updates >= 0.5 else "transport"
        transport = 1.0 - self.environments - self.inference
        return max((self.environments, "environment"), (self.inference, "inference"), (transport, "transport"))[1]


#: What the other place for the actors' networks would change.
_ELSEWHERE = {
    "device": "inference='device' runs the actors' networks on the learner's device, in one pass for all",
    "actor": "inference='actor' runs the actors' networks in their processes, and leaves the learner's to the updates",
}


def advice(shares: Shares, n_actors: int, n_processes: int, n_cores: int, other_inference: str | None = None) -> str:
    """
    :param shares: of a run
    :param n_actors: its slots
    :param n_processes: its actor processes, 0 if they share the learner's
    :param n_cores: cores that it may use
    :param other_inference: the value of ``inference`` that is not in use, None where there is no choice
    :return: a line for its user: what bounds the run, who waited how long, and what to change
    """
    kind = shares.bottleneck
    waited = f"the learner waited {shares.learner_wait:.0%} of its time, the actors {shares.actor_wait:.0%}"
    by_learner = shares.actor_wait > shares.learner_wait
    if kind == "learner":
        change = (
            "To collect faster, ask for fewer updates a transition (a larger train_freq, fewer gradient_steps), for "
            "smaller networks or batches, or take another device"
        )
        if n_processes > 1:
            change += f"; fewer actor processes than n_processes={n_processes} may do"
    elif kind == "transport":
        change = (
            "Blocks cost more than what they carry: make callbacks cheaper, or ticks larger (an env of more n_envs)"
            if by_learner
            else f"Recording takes longer than the steps: put more slots into a process (n_actors={2 * n_actors})"
        )
    else:
        change = _for_more_actors(kind, n_actors, n_processes, n_cores)
        if shares.learner_wait > 0.3:
            change += "; more updates a transition (gradient_steps) would cost little time"
    if other_inference is not None and (kind == "inference" or (kind, other_inference) == ("learner", "actor")):
        change += f"; {_ELSEWHERE[other_inference]}"
    return f"{kind}-bound: {waited}. {change}."


def _for_more_actors(kind: str, n_actors: int, n_processes: int, n_cores: int) -> str:
    if n_processes == 0:
        return "With execution='async', actors collect in processes of their own while the learner learns"
    if n_processes < n_cores:
        more = f"Take more processes: n_processes={n_cores} for {n_cores} cores"
        return more if n_actors >= n_cores else f"{more}, and n_actors={n_cores}"
    if kind == "inference":
        return f"Smaller networks act faster, as do more slots with one pass for all (n_actors={2 * n_actors})"
    return (
        f"{n_processes} processes on {n_cores} cores: a faster environment helps, or where its steps wait for more "
        f"than a core, more processes (n_processes={2 * n_processes}, n_actors={max(n_actors, 2 * n_processes)})"
    )

"""Refuses methods of the user's that SB3's ``learn`` would call and that of this package does not."""

from typing import Any

from gymnasium import spaces

from sb3_ca2e.envs.exact import from_elsewhere

#: Packages whose methods actors reimplement.
_REIMPLEMENTED = ("stable_baselines3", "sb3_contrib", "sb3_ca2e")

_NETWORK = "the network's forward(), a features extractor, or a wrapper of the environment"
_WRAPPER = "a wrapper of the environment"
_HOOKS = "the networks, a wrapper of the environment, or the algorithm's act() and explorations()"

#: What SB3 calls on a policy between two steps of the environment, and where else it can be done. It never calls
#: ``forward`` of a policy.
_OF_POLICY = {
    "predict": _NETWORK,
    "_predict": _NETWORK,
    "set_training_mode": "train() of the network or of a layer",
    "obs_to_tensor": _NETWORK,
    "is_vectorized_observation": _NETWORK,
    "scale_action": _WRAPPER,
    "unscale_action": _WRAPPER,
    "squash_output": _WRAPPER,
}
#: What it calls only for some actions.
_ONLY_FOR = {
    "is_vectorized_observation": spaces.Discrete,
    **dict.fromkeys(("scale_action", "unscale_action", "squash_output"), spaces.Box),
}
#: What it calls on a network besides ``forward``, which actors call too.
_OF_NETWORK = _OF_POLICY | {"q1_forward": "forward()"}
#: What it calls on the model. ``collect_rollouts``, ``train`` and ``_on_step`` are called here too.
_OF_MODEL = {"predict": _HOOKS, "_sample_action": _HOOKS, "_store_transition": f"{_WRAPPER}, or a replay buffer class"}
_MASKS = " To rule out actions, give the environment a method action_masks(), or put action_mask into its info."


def refuse_overrides(model: Any) -> None:
    """
    Refuse methods of a model, its policy or its networks that SB3 would call to act, but actors do not.

    :param model: a learner of this package, with its policy
    :raises ValueError: if one is overridden in a class, or replaced on the object
    """
    space, policy = model.action_space, model.policy
    of_policy = {
        name: text for name, text in _OF_POLICY.items() if isinstance(space, _ONLY_FOR.get(name, spaces.Space))
    }
    looked_at: list[tuple[Any, dict[str, str]]] = [(model, _OF_MODEL), (policy, of_policy)]
    for network, methods in model.called_by_sb3.items():
        of_network = {name: _OF_NETWORK.get(name, "forward()") for name in methods}
        looked_at.append((getattr(policy, network, None), of_network))
    for part, instead in looked_at:
        if (found := from_elsewhere(part, instead, _REIMPLEMENTED)) is not None:
            name = found.rpartition(".")[2]
            chooses = name in ("predict", "_predict", "_sample_action") and isinstance(space, spaces.Discrete)
            raise ValueError(
                f"SB3's learn() calls {found}, but {type(model).__name__} would leave it out: actors run the networks "
                f"themselves. Put it into {instead[name]} instead.{_MASKS if chooses else ''}"
            )

"""Recurrent policies, which can't be prior agents."""

#: Package of policies with a recurrent state.
RECURRENT = "sb3_contrib.common.recurrent"


def refuse_recurrent(name: str, modules: list[str]) -> None:
    """
    Refuse a recurrent policy.

    Transitions of priors are learned from one at a time, without the state that the policy had when it acted.

    :param name: name of the agent
    :param modules: modules of the policy's classes
    :raises ValueError: if one of them is recurrent
    """
    if any(module.startswith(RECURRENT) for module in modules):
        raise ValueError(
            f"{name} has a recurrent policy, which can't be a prior agent. Give an agent without memory, e.g. of PPO "
            "or DQN, trained on stacked frames if necessary."
        )

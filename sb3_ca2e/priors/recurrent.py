"""Policies that remember, which can't be priors."""

#: Modules of policies that carry a state from step to step.
RECURRENT = "sb3_contrib.common.recurrent"


def refuse_recurrent(name: str, modules: list[str]) -> None:
    """
    A prior's transitions are learned from one by one: what it remembered when it acted is not in them.

    :param name: of the agent
    :param modules: where its policy's classes are
    :raises ValueError: if one is recurrent
    """
    if any(module.startswith(RECURRENT) for module in modules):
        raise ValueError(
            f"{name} has a recurrent policy, which can't be a prior agent. Give an agent without memory, e.g. of PPO "
            "or DQN, where needed trained on stacked frames."
        )

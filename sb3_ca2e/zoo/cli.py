"""``sb3-ca2e``: the RL Zoo's commands with CA2E's algorithms among theirs, and commands for prior agents."""

import difflib
import importlib.metadata
import pkgutil
import runpy
import sys

from sb3_ca2e.zoo.registration import patch, register

PROGRAM = "sb3-ca2e"
#: The RL Zoo's commands: where they are, and what they do.
OF_THE_ZOO = {
    "train": ("rl_zoo3.train:train", "train an agent, or search its hyperparameters (-optimize)"),
    "enjoy": ("rl_zoo3.enjoy:enjoy", "watch a trained agent"),
    "plot_train": ("rl_zoo3.plots:plot_train", "plot the returns of training"),
    "plot_from_file": ("rl_zoo3.plots:plot_from_file", "plot what all_plots has gathered"),
    "all_plots": ("rl_zoo3.plots:all_plots", "compare the evaluations of several runs"),
    "record_video": ("rl_zoo3.record_video", "record a trained agent"),
    "benchmark": ("rl_zoo3.benchmark", "measure all agents of a folder"),
    "push_to_hub": ("rl_zoo3.push_to_hub", "upload an agent to the Hugging Face Hub"),
    "load_from_hub": ("rl_zoo3.load_from_hub", "download an agent from the Hugging Face Hub"),
}
OWN = {"priors": ("sb3_ca2e.zoo.list_priors:main", "list the agents that can be prior agents in an environment")}
COMMANDS = {**OF_THE_ZOO, **OWN}


def main() -> None:
    """Run the command that ``sys.argv`` names, with the arguments behind it."""
    command = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if command in ("-h", "--help"):
        print(usage())
        return
    if command in ("-V", "--version"):
        print(f"sb3-ca2e {importlib.metadata.version('sb3-ca2e')}")
        return
    if command not in COMMANDS:
        nearest = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f"Did you mean {nearest[0]!r}? " if nearest else ""
        sys.exit(f"{PROGRAM} has no command {command!r}. {hint}It knows: {', '.join(COMMANDS)}.")
    # As the command's own parser should see it, and name itself in its help
    sys.argv[:2] = [f"{PROGRAM} {command}"]
    if command in OF_THE_ZOO:
        try:
            register()
            patch()
        except ImportError as error:
            sys.exit(f"{PROGRAM} {command}: {error}")
    run(COMMANDS[command][0])


def usage() -> str:
    """
    :return: the help text
    """
    width = max(map(len, COMMANDS))
    lines = {name: f"  {name.ljust(width)}  {what}" for name, (_, what) in COMMANDS.items()}
    zoo, own = ("\n".join(lines[name] for name in commands) for commands in (OF_THE_ZOO, OWN))
    return (
        f"usage: {PROGRAM} COMMAND [options]\n\n"
        f"The RL Zoo's commands, which know ca2e_dqn and ca2e_ddpg too:\n{zoo}\n\n"
        f"Prior agents:\n{own}\n\n"
        f"'{PROGRAM} COMMAND --help' lists the options of a command."
    )


def run(place: str) -> None:
    """
    :param place: ``"module:function"`` to call, or a module to run as a script
    """
    if ":" in place:
        pkgutil.resolve_name(place)()
    else:
        runpy.run_module(place, run_name="__main__")

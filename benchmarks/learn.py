"""
The learning benchmark: ``python benchmarks/learn.py COMMAND --help``.

``references`` measures random policies and prior agents, ``train_priors`` trains those that are not of the zoo, ``run``
runs what has no curve yet, ``games`` does so against the clock, ``report`` writes the tables and ``figures`` draws.
"""

import importlib
import sys

COMMANDS = ("references", "train_priors", "run", "cell", "games", "steps", "report", "figures")


def main() -> None:
    """Run the command that ``sys.argv`` names, with the arguments behind it."""
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        sys.exit(f"{(__doc__ or '').strip()}\n\nCommands: {', '.join(COMMANDS)}.")
    command = sys.argv.pop(1)
    sys.argv[0] += f" {command}"
    importlib.import_module(f"learning.{command}").main()


if __name__ == "__main__":
    main()

"""
Print which files of the package a transition passes, from ``env.step`` to its row in the memory::

    python benchmarks/way.py

A ``CA2EDQN`` with ``execution="sync"`` collects blocks on CartPole-v1 and makes no update. From the moment the first
``env.step`` of a block returns until the memory holds that block, a profile function notes every file of the package in
which a function is called. The list is in order of the first call. A star marks the files that the last transition of
the block passes after its ``env.step``; the others act, end episodes or come before. "Architecture" in the
documentation shows the list.
"""

import pathlib
import sys
from types import FrameType
from typing import Any

from gymnasium.envs.classic_control import CartPoleEnv

import sb3_ca2e
from sb3_ca2e import CA2EDQN, PrioritizedReplayBuffer

PACKAGE = pathlib.Path(sb3_ca2e.__file__).parent
BEGIN, END = CartPoleEnv.step.__code__, PrioritizedReplayBuffer.add_block.__code__


class Way:
    """
    A profile function: the files called between the first ``env.step`` of a block and the end of its commit.

    :ivar block: file and first function called in it, in order, over the whole block
    :ivar last: the same since the last ``env.step``
    """

    def __init__(self) -> None:
        self.block: dict[str, str] = {}
        self.last: dict[str, str] = {}
        self._begun = False

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        """
        :param frame: of the function that is called, or returns
        :param event: ``"call"`` or ``"return"``; C functions are left out
        :param argument: unused
        """
        code = frame.f_code
        if event == "return" and code is BEGIN:
            self._begun = True
            self.last.clear()
        elif event == "return" and code is END and self._begun:
            sys.setprofile(None)
        elif event == "call" and self._begun and PACKAGE in (file := pathlib.Path(code.co_filename)).parents:
            for files in (self.block, self.last):
                files.setdefault(file.relative_to(PACKAGE).as_posix(), code.co_qualname)


def way() -> Way:
    """
    :return: the way of a block, with one actor, after a first block that started everything
    """
    model = CA2EDQN("MlpPolicy", "CartPole-v1", execution="sync", n_actors=1, seed=0, learning_starts=100_000)
    model.learn(model.local_buffer_size)
    found = Way()
    sys.setprofile(found)
    try:
        model.learn(model.local_buffer_size, reset_num_timesteps=False)
    finally:
        sys.setprofile(None)
    return found


def main() -> None:
    found = way()
    for file, function in found.block.items():
        print(f"{'*' if file in found.last else ' '} {file:32} {function}")
    print(f"{len(found.block)} files over a block, {len(found.last)} of them (*) after its last env.step")


if __name__ == "__main__":
    main()

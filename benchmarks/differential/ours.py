"""Our side of a case: ``python -m differential.ours CASE FOLDER MODE ...`` in a process of its own."""

import faulthandler
import pathlib
import pickle
import sys
import warnings
from collections.abc import Callable, Iterable
from typing import Any

from gymnasium import spaces

from differential import tape
from differential.cases import BLOCK, SEED, SHORT, SLOTS, UNSEEDED, Case, Making, cases, n_steps
from differential.programs import arguments, told, vectorized

#: Steps of a slot that are compared where nothing is seeded.
STEPS_UNSEEDED = 2 * BLOCK


def environment(case: Case, mode: str, folder: pathlib.Path, **kwargs: bool) -> Any:
    """
    Make what the program passes as ``env``.

    :param case: the case
    :param mode: the way of passing it
    :param folder: where tapes are kept
    :param kwargs: as in :class:`Making`
    :return: an environment, a vectorized environment or a function
    """
    making = Making(case.name, str(folder), **kwargs)
    if mode.startswith("sync") and mode != "sync-copies":
        return vectorized(case, [making] * SLOTS)
    if mode == "async-made":
        from sb3_ca2e import BuilderVecEnv

        return vectorized(case, [making], BuilderVecEnv) if case.wraps_vec else making
    return vectorized(case, [making]) if case.wraps_vec else making()


def model_of(case: Case, mode: str, env: Any, seed: int | None) -> Any:
    """
    Construct the model of a program.

    :param case: the case
    :param mode: the way of passing the environment
    :param env: the environment
    :param seed: seed of the model, or None
    :return: the model
    """
    from sb3_ca2e import CA2EDDPG, CA2EDQN

    known = env() if callable(env) and not hasattr(env, "action_space") else env
    kind = CA2EDDPG if isinstance(known.action_space, spaces.Box) else CA2EDQN
    return kind(
        env=env,
        seed=seed,
        execution=mode.partition("-")[0],
        n_actors=SLOTS,
        n_processes=1 if mode == "async-made" else SLOTS,
        local_buffer_size=BLOCK,
        learning_starts=BLOCK * SLOTS,
        actor_restarts=0,
        **arguments(known.observation_space, known.action_space),
    )


def contents(memory: Any, n_rows: int | None = None) -> dict[str, Any]:
    """
    Return what a memory holds.

    :param memory: our memory, or a buffer of SB3
    :param n_rows: number of rows that hold something, or None for all
    :return: its arrays, one row for each transition in the order in which they were added
    """
    names = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
    return {name: _rows(getattr(memory, name), n_rows) for name in names}


def _rows(array: Any, n_rows: int | None) -> Any:
    if isinstance(array, dict):
        return {key: _rows(part, n_rows) for key, part in array.items()}
    return array[:n_rows].reshape(-1, *array.shape[2:])


def seeded(case: Case, mode: str, folder: pathlib.Path) -> dict[str, Any]:
    """
    Learn with a seed.

    :param case: the case
    :param mode: the way of passing the environment
    :param folder: where tapes are kept
    :return: contents of the memory
    """
    model = model_of(case, mode, environment(case, mode, folder), SEED)
    model.learn(n_steps(case, model.observation_space) * SLOTS)
    return contents(model.replay_buffer)


def unseeded(case: Case, mode: str, folder: pathlib.Path) -> dict[str, Any]:
    """
    Learn twice without a seed, with the same actions in all slots.

    :param case: the case
    :param mode: the way of passing the environment
    :param folder: where tapes are kept
    :return: of each ``learn``, what each slot saw
    """
    return {
        "learns": learns(folder, lambda to: model_of(case, mode, environment(case, mode, to, prescribed=True), None))
    }


def learns(folder: pathlib.Path, model: Callable[[pathlib.Path], Any], **kwargs: Any) -> list[list[list[str]]]:
    """
    Let a model learn twice, and another one once.

    :param folder: where tapes are kept
    :param model: makes a model whose tapes are in a folder
    :param kwargs: further arguments of ``learn``
    :return: of each ``learn``, what each slot saw
    """
    seen = []
    for name, times in (("one", 2), ("other", 1)):
        (folder / name).mkdir()
        learner, sizes = model(folder / name), dict[str, int]()
        for _ in range(times):
            learner.learn(STEPS_UNSEEDED * SLOTS, **kwargs)
            seen.append([tape.seen(each)[:STEPS_UNSEEDED] for each in tape.tapes(folder / name, sizes)])
            sizes = tape.sizes(folder / name)
    return seen


def distribution(case: Case, mode: str, folder: pathlib.Path) -> dict[str, Any]:
    """
    Learn for 200 short episodes.

    :param case: the case
    :param mode: the way of passing the environment
    :param folder: where tapes are kept
    :return: nothing but tapes
    """
    model = model_of(case, mode, environment(case, mode, folder, short=True), SEED)
    model.learn(200 * SHORT)
    return {}


def run(case: Case, folder: pathlib.Path, modes: Iterable[str]) -> None:
    """
    Run our side of a case, and keep what came of each mode.

    :param case: the case
    :param folder: where it is kept; its file ``at`` names the mode that runs
    :param modes: the modes
    """
    for mode in modes:
        name, _, what = mode.partition(":")
        do = distribution if what else unseeded if mode in UNSEEDED else seeded
        (tapes := folder / mode).mkdir(parents=True)
        (folder / "at").write_text(mode)
        try:
            result: dict[str, Any] = {"contents": do(case, name, tapes)}
        except Exception as error:  # environments and we may raise anything
            result = {"error": told(error)}
        (folder / f"{mode}.pickle").write_bytes(pickle.dumps(result))


if __name__ == "__main__":
    faulthandler.enable()
    warnings.simplefilter("ignore")
    run(cases()[sys.argv[1]], pathlib.Path(sys.argv[2]), sys.argv[3:])

"""Monitor files of the slots: SB3 reads them, and they hold what callbacks saw."""

import collections
import contextlib
import csv
import io
import json
import pathlib
from collections.abc import Callable, Iterator

import gymnasium as gym
import pytest
import stable_baselines3 as sb3
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor, ResultsWriter, load_results
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor

from sb3_ca2e import CA2EDQN, PriorAgent
from tests.toy import RandomWalk, dqn

pytestmark = pytest.mark.usefixtures("_patient", "_one_server")
#: What SB3 says of a ``VecMonitor`` above a ``Monitor``.
ABOVE = pytest.mark.filterwarnings("ignore:The environment is already wrapped with a `Monitor` wrapper")
#: Transitions that are a whole number of blocks of three slots, and of SB3's rollouts: none is dropped at the end.
WHOLE_BLOCKS = 360


class Games(BaseCallback):
    """What callbacks were told of each episode's end."""

    def __init__(self):
        super().__init__()
        self.of_slot: dict[tuple[int, str], list[dict]] = collections.defaultdict(list)

    def _on_step(self):
        slots = self.locals.get("actor_ids", range(self.model.n_envs))
        kinds = self.locals.get("actor_kinds", ["nature"] * self.model.n_envs)
        for slot, kind, info in zip(slots, kinds, self.locals["infos"], strict=True):
            if "episode" in info:
                self.of_slot[int(slot), kind].append(info["episode"])
        return True

    @property
    def returns(self) -> list[tuple[float, int]]:
        return sorted((game["r"], game["l"]) for games in self.of_slot.values() for game in games)


class Counts(gym.Wrapper):
    """Says in ``info`` which step of its episode it was."""

    def reset(self, **kwargs):
        self.count = 0
        return self.env.reset(**kwargs)

    def step(self, action):
        self.count += 1
        *result, info = self.env.step(action)
        return *result, {**info, "count": self.count}


@pytest.fixture
def closed() -> Iterator[Callable[[VecEnv], VecEnv]]:
    """Close the user's environments, and with them their files."""
    with contextlib.ExitStack() as stack:
        yield lambda env: stack.enter_context(contextlib.closing(env))


def rows(path: pathlib.Path) -> list[dict[str, str]]:
    with path.open() as file:
        header = json.loads(file.readline().removeprefix("#"))
        assert set(header) == {"t_start", "env_id"}
        return list(csv.DictReader(file))


def read(path: pathlib.Path) -> list[tuple[float, int]]:
    return [(float(row["r"]), int(row["l"])) for row in rows(path)]


def told(games: list[dict]) -> list[tuple[float, int]]:
    return [(game["r"], game["l"]) for game in games]


def names(folder: pathlib.Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def walks(**kwargs) -> VecEnv:
    return make_vec_env(RandomWalk, 2, **kwargs)


def counted_inside(folder: pathlib.Path) -> VecEnv:
    keywords = {"info_keywords": ("count",)}
    return make_vec_env(lambda: Counts(RandomWalk()), 2, monitor_dir=str(folder), monitor_kwargs=keywords)


def counted_outside(folder: pathlib.Path | None = None) -> VecEnv:
    """The ``Monitor`` lies inside of what adds to ``info``, as it does with Atari's wrappers."""
    return walks(wrapper_class=Counts, monitor_dir=None if folder is None else str(folder))


@pytest.mark.parametrize("execution", ["sync", "async"])
@pytest.mark.parametrize(
    ("make", "prefix"),
    [
        (lambda folder: walks(monitor_dir=str(folder)), ""),
        (lambda folder: VecMonitor(DummyVecEnv([RandomWalk] * 2), str(folder)), ""),
        (lambda folder: VecMonitor(DummyVecEnv([RandomWalk] * 2), str(folder / "all")), "all."),
    ],
    ids=["monitor_dir", "VecMonitor's folder", "VecMonitor's file"],
)
def test_each_slot_has_a_file_of_the_episodes_that_callbacks_saw(make, prefix, execution, tmp_path, closed):
    env, games = closed(make(tmp_path)), Games()
    users = {path: path.read_text() for path in tmp_path.iterdir()}
    # All that is collected in this process is committed; actor processes may be ahead when learning ends.
    dqn(env, execution=execution, n_processes=2).learn(WHOLE_BLOCKS, games)
    files = [f"{prefix}actor_{slot}.monitor.csv" for slot in range(3)]
    assert names(tmp_path) == sorted([*files, *(path.name for path in users)])
    assert {path: path.read_text() for path in users} == users
    for slot, file in enumerate(files):
        expected = told(games.of_slot[slot, "nature"])
        written = read(tmp_path / file)
        assert len(expected) >= 5
        assert (written if execution == "sync" else written[: len(expected)]) == expected
    table = load_results(str(tmp_path))
    assert list(table.columns) == ["index", "r", "l", "t"]
    if execution == "sync":
        assert sorted(zip(table["r"], table["l"], strict=True)) == games.returns
    assert (table["t"] >= 0).all()


def test_what_sb3_leaves_and_what_slots_leave_have_the_same_columns(tmp_path, closed):
    def run(algorithm):
        folder, games = tmp_path / algorithm.__name__, Games()
        env = closed(counted_inside(folder))
        dqn(env, algorithm).learn(WHOLE_BLOCKS, games)
        table = load_results(str(folder))
        assert (table["count"] == table["l"]).all()
        told = [game for slot in games.of_slot.values() for game in slot]
        assert all(game["count"] == game["l"] for game in told)
        assert sorted(zip(table["r"], table["l"], strict=True)) == games.returns
        return list(table.columns), {tuple(game) for game in told}

    assert run(CA2EDQN) == run(sb3.DQN)


def test_learning_again_goes_on_in_the_same_files(tmp_path, closed):
    model, games = dqn(closed(walks(monitor_dir=str(tmp_path)))), Games()
    files = []
    for reset in (True, True, False):
        model.learn(120, games, reset_num_timesteps=reset)
        files.append(names(tmp_path))
    assert files[0] == files[1] == files[2]
    zipped = io.BytesIO()
    model.save(zipped)
    loaded = CA2EDQN.load(zipped, env=closed(walks(monitor_dir=str(tmp_path))))
    loaded.learn(120, games, reset_num_timesteps=False)
    assert names(tmp_path) == files[0]
    for slot in range(3):
        file = tmp_path / f"actor_{slot}.monitor.csv"
        assert read(file) == told(games.of_slot[slot, "nature"])
        times = [float(row["t"]) for row in rows(file)]
        assert times == sorted(times)  # all counted from the first run's start
    table = load_results(str(tmp_path))
    assert sorted(zip(table["r"], table["l"], strict=True)) == games.returns


def test_other_columns_go_to_another_file(tmp_path, closed):
    dqn(closed(walks(monitor_dir=str(tmp_path))), n_actors=1).learn(60)
    before = (tmp_path / "actor_0.monitor.csv").read_text()
    dqn(closed(counted_inside(tmp_path)), n_actors=1).learn(60)
    assert (tmp_path / "actor_0.monitor.csv").read_text() == before
    again = rows(tmp_path / "actor_0_2.monitor.csv")
    assert again
    assert all(row["count"] == row["l"] for row in again)
    assert len(load_results(str(tmp_path))) == len(before.splitlines()) - 2 + len(again)


@pytest.mark.parametrize("execution", ["sync", "async"])
def test_a_priors_file_is_marked_and_ends_with_its_retirement(execution, tmp_path, closed):
    env = closed(make_vec_env(RandomWalk, 1, monitor_dir=str(tmp_path), env_kwargs={"end_probability": 0.5}))
    prior = PriorAgent(sb3.DQN("MlpPolicy", RandomWalk(), buffer_size=1), mean_reward=-1e9)
    games = Games()
    model = dqn(env, n_actors=2, n_processes=1, prior_agents=[prior], prior_patience=1, execution=execution)
    model.learn(1200, games)
    assert [row["kind"] for row in model.actor_stats] == ["nature", "nature"]
    files = {
        (0, "nature"): "actor_0.monitor.csv",
        (1, "prior"): "actor_1_prior.monitor.csv",
        (1, "nature"): "actor_1.monitor.csv",
    }
    assert names(tmp_path) == sorted(["0.monitor.csv", *files.values()])
    for key, file in files.items():
        expected = told(games.of_slot[key])
        assert len(expected) >= 20
        assert read(tmp_path / file)[: len(expected)] == expected
    # A slot whose prior has retired begins as what it is, and keeps to its file.
    written = (tmp_path / files[1, "prior"]).read_text()
    model.learn(60, games, reset_num_timesteps=False)
    assert (tmp_path / files[1, "prior"]).read_text() == written


# VecMonitor above Monitor.


@ABOVE
@pytest.mark.parametrize("file", [True, False])
def test_a_vec_monitor_puts_down_what_the_monitor_inside_does_not_know(file, tmp_path, closed):
    def run(algorithm):
        folder, games = tmp_path / algorithm.__name__, Games()
        folder.mkdir()
        env = closed(VecMonitor(counted_outside(), str(folder) if file else None, info_keywords=("count",)))
        dqn(env, algorithm).learn(WHOLE_BLOCKS, games)
        told = [game for slot in games.of_slot.values() for game in slot]
        assert len(told) >= 20
        assert all(game["count"] == game["l"] for game in told)
        if not file:
            return names(folder)
        table = load_results(str(folder))
        assert (table["count"] == table["l"]).all()
        assert sorted(table["l"]) == [game["l"] for game in sorted(told, key=lambda game: game["l"])]
        return list(table.columns)

    assert run(CA2EDQN) == run(sb3.DQN)


@ABOVE
def test_a_vec_monitor_and_the_monitor_inside_have_a_file_each(tmp_path, closed):
    env = closed(VecMonitor(counted_outside(tmp_path / "inside"), str(tmp_path / "above"), ("count",)))
    games = Games()
    dqn(env, n_actors=1).learn(120, games)
    expected = told(games.of_slot[0, "nature"])
    assert len(expected) >= 5
    assert read(tmp_path / "inside" / "actor_0.monitor.csv") == expected
    assert read(tmp_path / "above.actor_0.monitor.csv") == expected
    assert all(row["count"] == row["l"] for row in rows(tmp_path / "above.actor_0.monitor.csv"))


# Functions that open files of their own.


@pytest.mark.parametrize("execution", ["sync", "async"])
def test_a_functions_own_monitor_file_stays_as_the_user_left_it(execution, tmp_path, closed):
    model = dqn(lambda: Monitor(RandomWalk(), str(tmp_path / "mine")), n_actors=2, execution=execution)
    env = closed(model.get_env())
    env.reset()
    while not env.step(env.action_space.sample()[None])[2].any():
        pass
    before = (tmp_path / "mine.monitor.csv").read_text()
    model.learn(120)
    assert (tmp_path / "mine.monitor.csv").read_text() == before
    assert len(before.splitlines()) == 3
    assert names(tmp_path) == ["mine.actor_0.monitor.csv", "mine.actor_1.monitor.csv", "mine.monitor.csv"]
    assert type(env.envs[0].results_writer) is ResultsWriter
    while not env.step(env.action_space.sample()[None])[2].any():
        pass
    after = (tmp_path / "mine.monitor.csv").read_text()
    assert after.startswith(before)
    assert len(after.splitlines()) == 4

"""The memory's arrays and transfers against SB3's own buffers given the same steps, by brute force elsewhere."""

import copy
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ca2e.replay import Block, ObservationColumn, PrioritizedReplayBuffer
from sb3_ca2e.replay.block import OBSERVATION, TERMINATED, TRANSITION
from tests import inside
from tests.replay.recorded_slot import RecordedSlot
from tests.replay.test_streams import columns_of, make_memory

VECTOR = spaces.Box(-10, 10, (3,), np.float32)
#: actions are numbers of steps, so that each transition can be told from all others
NUMBERS = spaces.Discrete(2**40)
#: so many that none comes by chance where an episode would go on with it
DISCRETE = spaces.Discrete(10_000)
MIXED = spaces.Dict({"camera": spaces.Box(0, 255, (1, 2, 2), np.uint8), "place": spaces.Discrete(5), "speed": VECTOR})
NAMES = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


def random_steps(n_steps: int, n_envs: int, observation_space=VECTOR, action_space=NUMBERS, seed=0, end=0.2):
    """Arguments for ``add``; the steps of two halves do not continue one another, as if ``learn`` were called twice."""
    observation_space.seed(seed)
    action_space.seed(seed)
    rng = np.random.default_rng(seed)

    def batch():
        samples = [observation_space.sample() for _ in range(n_envs)]
        if isinstance(observation_space, spaces.Dict):
            return {key: np.stack([sample[key] for sample in samples]) for key in samples[0]}
        return np.stack(samples)

    def joined(done, first, second):
        if isinstance(first, dict):
            return {key: joined(done, first[key], second[key]) for key in first}
        return np.where(done.reshape(-1, *[1] * (first.ndim - 1)), first, second)

    obs = batch()
    for step in range(n_steps):
        if step == n_steps // 2:
            obs = batch()
        next_obs = batch()
        done = rng.random(n_envs) < end
        infos = [{"TimeLimit.truncated": bool(each and rng.random() < 0.5)} for each in done]
        action = np.stack([action_space.sample() for _ in range(n_envs)])
        if action_space is NUMBERS:
            action = step * n_envs + np.arange(n_envs)
        yield copy.deepcopy((obs, next_obs, action, rng.normal(size=n_envs).astype(np.float32), done, infos))
        obs = joined(done, batch(), next_obs)


def sb3s(*args, **kwargs) -> ReplayBuffer:
    return (DictReplayBuffer if isinstance(args[1], spaces.Dict) else ReplayBuffer)(*args, "cpu", **kwargs)


def pair(buffer_size, observation_space=VECTOR, action_space=NUMBERS, n_envs=1, **kwargs):
    """SB3's buffer and ours."""
    args = (buffer_size, observation_space, action_space)
    ours = PrioritizedReplayBuffer(*args, "cpu", n_envs, n_steps=1, seed=0, **kwargs)
    return sb3s(*args, n_envs=n_envs, **kwargs), ours


def fill(buffers, steps) -> None:
    for step in steps:
        for buffer in buffers:
            buffer.add(*copy.deepcopy(step))


def in_turn(buffer: ReplayBuffer) -> np.ndarray:
    """The rows of SB3's ring, the oldest first."""
    return np.roll(np.arange(buffer.buffer_size), -buffer.pos) if buffer.full else np.arange(buffer.pos)


def check_same(got, expected) -> None:
    """Arrays or dictionaries of them, with shapes and dtypes."""
    if isinstance(expected, dict):
        assert set(got) == set(expected)
        for key in expected:
            check_same(got[key], expected[key])
    else:
        np.testing.assert_array_equal(got, expected, strict=True)


def rows_of(array, rows):
    return {key: part[rows] for key, part in array.items()} if isinstance(array, dict) else array[rows]


def check_arrays(ours, theirs, rows, cut=()) -> None:
    """
    Check all arrays. A step that continues nothing cuts the stream before it: SB3's buffer has no end there.

    :param rows: of their arrays, those that ours must be
    :param cut: of these, those after which ours was cut: truncated, unless an episode ended there
    """
    for name in NAMES:
        expected = rows_of(getattr(theirs, name), rows)
        if name in ("dones", "timeouts"):
            open_end = theirs.dones[rows[list(cut)]] == 0
            expected[list(cut)] = np.where(open_end, 1, expected[list(cut)])
        check_same(getattr(ours, name), expected)


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("observations", [VECTOR, DISCRETE, MIXED], ids=["vector", "discrete", "dict"])
@pytest.mark.parametrize(
    "actions",
    [NUMBERS, spaces.Box(-1, 1, (2, 2), np.float64), spaces.MultiDiscrete([3, 4]), spaces.MultiBinary(2)],
    ids=["discrete", "box", "multi-discrete", "multi-binary"],
)
def test_arrays_are_sb3s(n_envs, observations, actions):
    theirs, ours = pair(101, observations, actions, n_envs)
    n_steps = 101 // n_envs  # which fill them
    for i, step in enumerate(random_steps(n_steps, n_envs, observations, actions)):
        assert (ours.pos, ours.full) == (theirs.pos, theirs.full) == (i, False)
        if i == n_steps - 5:
            check_arrays(ours, theirs, np.arange(i), cut=[n_steps // 2 - 1])
        fill([theirs, ours], [step])
    assert (
        (ours.pos, ours.full, ours.buffer_size) == (theirs.pos, theirs.full, theirs.buffer_size) == (0, True, n_steps)
    )
    assert ours.size() == n_steps * n_envs
    check_arrays(ours, theirs, np.arange(n_steps), cut=[n_steps // 2 - 1])
    assert 0 < ours.timeouts.sum() < ours.dones.sum()


def test_of_an_empty_memory():
    for observations in (VECTOR, MIXED):
        theirs, ours = pair(50, observations, spaces.Box(-1, 1, (2,)), n_envs=2)
        assert (ours.pos, ours.full, ours.size()) == (0, False, 0)
        check_arrays(ours, theirs, np.arange(0))
        with pytest.raises(IndexError, match="holds 0 rows"):
            ours._get_samples(np.array([0]))


def test_without_timeouts():
    theirs, ours = pair(50, handle_timeout_termination=False)
    fill([theirs, ours], random_steps(40, 1))
    check_arrays(ours, theirs, np.arange(40), cut=[19])
    assert (ours.timeouts.sum(), ours.dones.sum()) == (1, theirs.dones.sum() + 1)


def test_when_the_oldest_are_freed_the_arrays_hold_all_that_is_held():
    """Those idioms of SB3's hold: `[:pos]` or all if full, and `buffer_size if full else pos` rows."""
    theirs, ours = pair(40)
    seen = []
    for i, step in enumerate(random_steps(150, 1, end=0.1)):
        fill([theirs, ours], [step])
        seen.append((ours.pos, ours.full))
        n_rows = ours.buffer_size if ours.full else ours.pos
        assert n_rows == ours.size() == len(ours.actions)
        np.testing.assert_array_equal(ours.actions[:, 0, 0], np.arange(i + 1 - n_rows, i + 1))
        assert ours.actions[ours.pos - 1] == i
    assert seen[39] == (0, True)
    assert min(seen[39:]) > (0, False)
    assert {full for _, full in seen[50:]} == {False, True}
    rows = in_turn(theirs)[-len(ours.actions) :]
    check_arrays(ours, theirs, rows)


def test_a_row_that_is_not_filled_is_left_out():
    ours, theirs = pair(90, n_envs=4)[1], ReplayBuffer(1000, VECTOR, NUMBERS, "cpu", n_envs=4)
    filled = set()
    for step in random_steps(60, 4, end=0.1):
        fill([theirs, ours], [step])
        assert (ours.pos or ours.buffer_size) == ours.size() // 4 == len(ours.rewards) <= ours.buffer_size == 22
        filled.add(ours.size() % 4 == 0)
        assert ours.actions.max() == step[2].max() - ours.size() % 4
    assert filled == {False, True}
    held = ours.actions.ravel()
    assert (np.diff(held) > 0).all()
    check_same(ours.observations.reshape(-1, 3), theirs.observations[held // 4, held % 4])


@pytest.mark.parametrize("n_stack", [1, 4])
@pytest.mark.parametrize("kind", range(7))
def test_what_actors_handed_over(n_stack, kind):
    """Blocks of several slots, with stacks, in their order; each slot is cut now and then."""
    columns = columns_of(n_stack)[kind]
    memory = make_memory(columns, 60, n_slots=2, segment_length=7)
    rng = np.random.default_rng(kind)
    slots = [RecordedSlot(slot, columns, rng, 0.2) for slot in range(3)]
    n_committed = 0
    for i in range(60):
        slot, n = slots[min(int(rng.geometric(0.6)) - 1, 2)], int(rng.integers(1, 10))
        if i % 7 == 6:
            memory.end_stream(slot.slot)
            slot.cut(restart=i % 2 == 0)
        memory.add_block(slot.block(n, n_committed))
        n_committed += n
        if i % 6 > 0:
            continue
        held = memory.actions[:, 0, 0]
        steps = {step.id: step for slot in slots for step in slot.steps}
        assert (np.diff(held) > 0).all()
        assert len(held) == memory.size() == (memory.pos or memory.buffer_size)
        for name, attribute in (("observations", "observation"), ("next_observations", "next_observation")):
            expected = [getattr(steps[step_id], attribute) for step_id in held]
            stacks = {key: np.stack([each[key] for each in expected])[:, None] for key in columns}
            got = getattr(memory, name)
            got = got if isinstance(got, dict) else {OBSERVATION: got}
            check_same({key: got[key].reshape(stacks[key].shape) for key in got}, stacks)
        ends = np.array([(steps[i].terminated or steps[i].truncated, steps[i].truncated) for i in held], np.float32)
        check_same(memory.rewards, np.array([[steps[i].reward] for i in held], np.float32))
        check_same(np.stack([memory.dones, memory.timeouts], axis=2), ends[:, None])
    assert n_committed > 4 * len(held)


def test_an_episode_that_broke_off_counts_as_truncated():
    """The step after it was refused; the newest step, and one behind which another segment begins, have no end."""
    memory = make_memory({OBSERVATION: ObservationColumn((3,), np.dtype(np.float32))}, 100, segment_length=4)
    flags = np.full(8, TRANSITION)
    flags[1], flags[3] = TRANSITION | TERMINATED, 0
    flags[2] = flags[7] = 0  # the last frame of the episode that ended, and one on which no step was taken
    for part in (flags[:4], flags[4:7], flags[:1]):
        block = Block(
            slot=0,
            frames={OBSERVATION: np.zeros((len(part) + 1, 3), np.float32)},
            actions=np.zeros((len(part), 1), np.int64),
            rewards=np.zeros(len(part), np.float32),
            flags=part.copy(),
            ages=np.zeros(len(part) + 1, np.uint8),
            priorities=np.ones(len(part)),
        )
        memory.add_block(block)
    assert memory.dones.ravel().tolist() == [0, 1, 0, 0, 0, 0]
    memory.add_block(Block(**{**vars(block), "flags": flags[7:], "priorities": np.zeros(1)}))
    assert memory.dones.ravel().tolist() == [0, 1, 0, 0, 0, 1]
    assert memory.timeouts.ravel().tolist() == [0, 0, 0, 0, 0, 1]


def test_nobody_writes_to_a_copy_in_the_belief_that_it_is_the_memory():
    theirs, ours = pair(50, MIXED)
    fill([theirs, ours], random_steps(20, 1, MIXED))
    for name in NAMES:
        array = getattr(ours, name)
        for part in array.values() if isinstance(array, dict) else [array]:
            with pytest.raises(ValueError, match="read-only"):
                part[3] = 1
        with pytest.raises(AttributeError):
            setattr(ours, name, array)
    ours.optimize_memory_usage = True
    ours.dones[3] = 1  # as SB3's learners do then
    with pytest.raises(ValueError, match="read-only"):
        ours.timeouts[3] = 1
    with pytest.raises(AttributeError, match=r"pos follows from.*reset"):
        ours.pos = 3
    with pytest.raises(AttributeError, match=r"full follows from.*reset"):
        ours.full = True
    ours.reset()
    assert (ours.pos, ours.full, len(ours.rewards)) == (0, False, 0)


@pytest.mark.parametrize("n_envs", [1, 3])
def test_many_transitions_are_copied_in_parts(n_envs):
    n = 9000
    theirs, ours = (ReplayBuffer(n, VECTOR, NUMBERS, "cpu", n_envs=n_envs) for _ in range(2))
    memory = PrioritizedReplayBuffer(n, VECTOR, NUMBERS, "cpu", n_envs)
    theirs.observations[:] = np.random.default_rng(0).integers(0, 10, theirs.observations.shape)
    theirs.next_observations[:-1] = theirs.observations[1:]
    theirs.actions.ravel()[:] = np.arange(n)
    theirs.full = True
    assert memory.add_from(theirs) == n
    assert memory.add_to(ours) == n
    steps = memory.actions.ravel()
    assert np.array_equal(steps, np.arange(n)) == (n_envs == 1)  # blocks of an environment come one after the other
    for buffer in (memory, ours):
        for name in NAMES[:3]:
            got, expected = getattr(buffer, name), getattr(theirs, name)
            check_same(got, expected.reshape(n, -1)[steps].reshape(expected.shape))


def test_copies_above_a_gibibyte_are_refused():
    space = spaces.Box(0, 255, (64, 4096), np.float32)
    memory = PrioritizedReplayBuffer(1100, space, NUMBERS, "cpu", frame_stack=(64, 0), n_slots=1, n_steps=1)
    n = 1025
    memory.add_block(
        Block(
            slot=0,
            frames={OBSERVATION: np.zeros((63 + n + 1, 1, 4096), np.float32)},
            actions=np.arange(n).reshape(-1, 1),
            rewards=np.ones(n, np.float32),
            flags=np.full(n, TRANSITION),
            ages=np.full(n + 1, 63, np.uint8),
            priorities=np.ones(n),
        )
    )
    for name in ("observations", "next_observations"):
        message = rf"^{name} of 1025 transitions would be a copy of 1.0 GiB.*Use sample\(\)"
        with pytest.raises(AttributeError, match=message):
            getattr(memory, name)
        assert not hasattr(memory, name)
    assert memory.rewards.sum() == n
    assert memory._get_samples(np.array([1, 1024])).actions.flatten().tolist() == [1, 1024]
    assert copy.deepcopy(memory).size() == n


@pytest.mark.parametrize("copies", [copy.deepcopy, lambda memory: pickle.loads(pickle.dumps(memory))])
def test_a_copy_has_the_same_arrays(copies):
    theirs, ours = pair(50, MIXED)
    fill([theirs, ours], random_steps(20, 1, MIXED, end=0.0))
    check_arrays(copies(ours), theirs, np.arange(20), cut=[9, 19])


@pytest.mark.parametrize("observations", [VECTOR, MIXED], ids=["vector", "dict"])
@pytest.mark.parametrize("n_envs", [1, 3])
def test_samples_of_rows_are_sb3s(observations, n_envs):
    theirs, ours = pair(100, observations, n_envs=n_envs)
    fill([theirs, ours], random_steps(25, n_envs, observations))
    inds = np.random.default_rng(0).integers(0, 25, 40)
    np.random.seed(0)
    expected = theirs._get_samples(inds)
    np.random.seed(0)
    got = ours._get_samples(inds)
    for name in ("observations", "next_observations", "actions", "rewards", "dones"):
        check_same(getattr(got, name), getattr(expected, name))
    assert len(np.unique(got.actions.numpy() % n_envs)) == n_envs


def test_samples_of_rows_are_normalized():
    env = VecNormalize(make_vec_env("Pendulum-v1", 2), clip_reward=0.5)
    env.reset()
    for _ in range(20):
        env.step(np.ones((2, 1)))
    theirs, ours = pair(100, env.observation_space, NUMBERS, 2)
    fill([theirs, ours], random_steps(10, 2, env.observation_space))
    np.random.seed(0)
    expected = theirs._get_samples(np.arange(10), env)
    np.random.seed(0)
    got = ours._get_samples(np.arange(10), env)
    for name in ("observations", "next_observations", "rewards"):
        np.testing.assert_allclose(getattr(got, name), getattr(expected, name), rtol=1e-6, err_msg=name)
        assert not th.equal(getattr(got, name), getattr(ours._get_samples(np.arange(10)), name))


@pytest.mark.parametrize("inds", [[10], [-1], [0, 3, 12], [1.0], [True], [[1, 2]]])
def test_rows_that_there_are_not_are_refused(inds):
    _, ours = pair(100)
    fill([ours], random_steps(10, 1))
    with pytest.raises(IndexError, match="_get_samples"):
        ours._get_samples(np.array(inds))


@pytest.mark.parametrize("n_envs", [1, 3])
def test_extend(n_envs):
    theirs, ours = pair(100, n_envs=n_envs)
    together = [list(parts) for parts in zip(*random_steps(20, n_envs), strict=True)]
    for buffer in (theirs, ours):
        buffer.extend(*(np.array(parts) if isinstance(parts[0], np.ndarray) else parts for parts in together))
    check_arrays(ours, theirs, np.arange(20), cut=[9])


# SB3's buffers, taken over and filled.


@pytest.mark.parametrize("observations", [VECTOR, DISCRETE, MIXED], ids=["vector", "discrete", "dict"])
@pytest.mark.parametrize("n_steps", [70, 100, 163])
@pytest.mark.parametrize("timeouts", [True, False])
def test_a_buffer_is_taken_over(observations, n_steps, timeouts):
    """Oldest first, whether its ring has been filled or not; its newest step is cut."""
    theirs, ours = pair(100, observations, handle_timeout_termination=timeouts)
    fill([theirs], random_steps(n_steps, 1, observations))
    assert ours.add_from(theirs) == min(n_steps, 100)
    rows = in_turn(theirs)
    jump = n_steps // 2 - 1 - max(n_steps - 100, 0)
    check_arrays(ours, theirs, rows, cut=[jump, -1] if jump >= 0 else [-1])


@pytest.mark.parametrize("n_steps", [10, 100])
def test_environments_are_streams_of_their_own(n_steps):
    """Returns of three steps are those of SB3's own n-step buffer; newest and jumping steps lead nowhere."""
    args = (100, VECTOR, NUMBERS, "cpu", 3)
    theirs, ours = NStepReplayBuffer(*args, n_steps=3, gamma=0.5), PrioritizedReplayBuffer(*args, n_steps=3, gamma=0.5)
    steps = list(random_steps(2 * n_steps, 3))[:n_steps]  # which all continue one another
    fill([theirs], steps)
    assert ours.add_from(theirs) == 3 * min(n_steps, 33)
    got = ours.samples_at(th.from_numpy(inside.storage(ours).in_order()))
    held = got.actions[:, 0].numpy()
    assert sorted(held) == list(range(3 * max(n_steps - 33, 0), 3 * n_steps))
    for env in range(3):
        mine = held % 3 == env
        assert (np.diff(held[mine]) > 0).all()
        alone = NStepReplayBuffer(100, VECTOR, NUMBERS, "cpu", n_steps=3, gamma=0.5)
        fill([alone], ([part[env : env + 1] for part in step] for step in steps))
        expected = alone._get_samples(held[mine] // 3)
        for name in ("observations", "next_observations", "rewards", "discounts", "dones"):
            np.testing.assert_allclose(getattr(got, name)[mine], getattr(expected, name), rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("n_steps", [30, 70])
def test_a_buffer_that_shares_observations_is_taken_over(n_steps):
    """All but the oldest of a full one, whose observation has been overwritten. The end of an episode is lost to it."""
    kwargs = {"optimize_memory_usage": True, "handle_timeout_termination": False}
    theirs = ReplayBuffer(50, VECTOR, NUMBERS, "cpu", **kwargs)
    whole, ours = pair(200)
    steps = list(random_steps(2 * n_steps, 1))[:n_steps]
    fill([theirs, whole], steps)
    n_held = min(n_steps, 49)
    assert ours.add_from(theirs) == n_held
    rows = np.arange(n_steps - n_held, n_steps)
    for name in ("observations", "actions", "rewards"):
        check_same(getattr(ours, name), getattr(whole, name)[rows])
    went_on = whole.dones[rows, 0] == 0
    check_same(ours.next_observations[went_on], whole.next_observations[rows][went_on])
    expected = theirs._get_samples(rows % 50)
    for name in ("next_observations", "dones"):
        check_same(getattr(ours._get_samples(np.arange(n_held)), name), getattr(expected, name))


def test_the_newest_are_kept_of_more_than_fit_and_of_what_there_was():
    theirs = ReplayBuffer(300, VECTOR, NUMBERS, "cpu")
    steps = list(random_steps(300, 1, end=0.05))
    fill([theirs], steps[:200])
    ours = PrioritizedReplayBuffer(120, VECTOR, NUMBERS, "cpu", n_slots=1)
    assert ours.add_from(theirs) == 120
    assert ours.actions[-1] == 199
    assert 100 < ours.size() <= 120
    fill([ours], steps[200:250])
    np.testing.assert_array_equal(ours.actions[:, 0, 0], np.arange(250 - ours.size(), 250))
    assert ours.size() > 100


@pytest.mark.parametrize("ended", [False, True])
def test_what_is_taken_over_continues_nothing_and_nothing_continues_it(ended):
    theirs, ours = pair(50)
    steps = list(random_steps(30, 1, end=0.0))[:15]
    fill([ours], steps[:5])
    steps[9][4][:] = ended
    fill([theirs], steps[5:10])
    ours.add_from(theirs)
    fill([ours], steps[10:])
    assert np.flatnonzero(ours.timeouts[:, 0]).tolist() == ([4] if ended else [4, 9])
    assert np.flatnonzero(ours.dones[:, 0]).tolist() == [4, 9]


def test_priorities_of_what_is_taken_over_are_the_largest_so_far():
    theirs = ReplayBuffer(50, VECTOR, NUMBERS, "cpu")
    ours = PrioritizedReplayBuffer(100, VECTOR, NUMBERS, "cpu", alpha=0.5)
    fill([theirs, ours], random_steps(10, 1))
    samples = ours.sample(1)
    ours.update_priorities(samples.indices, samples.generations, th.tensor([16.0]))
    ours.add_from(theirs)
    leaves = inside.rows(ours).priorities[th.from_numpy(inside.storage(ours).in_order())]
    assert sorted(leaves.tolist()) == [1.0] * 9 + [4.0] * 11


def filled_with_stacks(columns, n_steps=80, seed=0, end=0.2):
    """SB3's buffer with the stacks of recorded episodes."""
    slot = RecordedSlot(0, columns, np.random.default_rng(seed), end)
    slot.block(n_steps, 0)
    ours = make_memory(columns, 100, n_steps=1)
    theirs = sb3s(60, ours.observation_space, ours.action_space)
    for step in slot.steps:
        before, after = (
            {key: values[None].copy() for key, values in observation.items()}
            for observation in (step.observation, step.next_observation)
        )
        if not isinstance(ours.observation_space, spaces.Dict):
            before, after = before[OBSERVATION], after[OBSERVATION]
        end, info = np.array([step.terminated or step.truncated]), {"TimeLimit.truncated": step.truncated}
        theirs.add(before, after, np.array([[step.id]]), np.array([step.reward]), end, [info])
    return theirs, ours


@pytest.mark.parametrize("kind", range(7))
def test_stacks_are_taken_apart(kind):
    """The oldest step held is in the middle of an episode, whose older frames only its own stack has."""
    columns = columns_of(4)[kind]
    theirs, ours = filled_with_stacks(columns)
    assert ours.add_from(theirs) == 60
    check_arrays(ours, theirs, in_turn(theirs), cut=[-1])
    frames = inside.rows(ours).frames
    assert {key: tuple(frames[key].shape[1:]) for key in columns} == {k: c.frame_shape for k, c in columns.items()}
    assert {0, 1, 2, 3} == set(inside.rows(ours).ages.tolist())


def test_observations_that_are_no_stacks_are_refused_before_anything_is_taken():
    columns = {OBSERVATION: ObservationColumn((3,), np.dtype(np.float32), 4)}
    theirs, ours = filled_with_stacks(columns)
    theirs.observations[(theirs.pos - 1) % 60] += 1
    with pytest.raises(ValueError, match=r"can't be stored as stacks of 4 along axis 0, frames \(3,\) of float32"):
        ours.add_from(theirs)
    assert ours.size() == 0


def test_observations_that_would_be_rounded_are_refused():
    space = spaces.Box(0, 255, (3,), np.float32)
    for values, refused in ((np.array([[1.0, 2.0, 255.0]], np.float32), False), (np.array([[1.5, 2, 3]]), True)):
        ours = PrioritizedReplayBuffer(
            50, space, NUMBERS, "cpu", columns={OBSERVATION: ObservationColumn((3,), np.dtype(np.uint8))}
        )
        theirs = ReplayBuffer(50, space, NUMBERS, "cpu")
        theirs.add(values, values, np.zeros(1), np.zeros(1), np.zeros(1), [{}])
        if refused:
            with pytest.raises(ValueError, match=r"can't be stored as frames \(3,\) of uint8"):
                ours.add_from(theirs)
        else:
            ours.add_from(theirs)
            check_same(ours.observations, theirs.observations[:1])


class Own(ReplayBuffer):
    """Nobody knows what it stores."""


GOALS = spaces.Dict(dict.fromkeys(("observation", "achieved_goal", "desired_goal"), VECTOR))


@pytest.mark.parametrize(
    ("theirs", "space", "error", "message"),
    [
        (Own(9, VECTOR, NUMBERS), VECTOR, TypeError, "is a Own"),
        (HerReplayBuffer(9, GOALS, NUMBERS, SimpleNamespace()), GOALS, TypeError, "is a HerReplayBuffer"),
        (PrioritizedReplayBuffer(9, VECTOR, NUMBERS), VECTOR, TypeError, "is a PrioritizedReplayBuffer"),
        ({"observations": 3}, VECTOR, TypeError, "is a dict"),
        (ReplayBuffer(9, spaces.Discrete(3), NUMBERS), VECTOR, ValueError, r"observations of Discrete\(3\).*Box"),
        (ReplayBuffer(9, VECTOR, spaces.Discrete(3)), VECTOR, ValueError, r"actions of Discrete\(3\).*Discrete\(1099"),
    ],
)
def test_other_buffers_are_refused(theirs, space, error, message):
    ours = PrioritizedReplayBuffer(50, space, NUMBERS, "cpu")
    with pytest.raises(error, match=message):
        ours.add_from(theirs)
    with pytest.raises(error, match=message):
        ours.add_to(theirs)
    assert ours.size() == 0


@pytest.mark.parametrize("observations", [VECTOR, DISCRETE, MIXED], ids=["vector", "discrete", "dict"])
@pytest.mark.parametrize("n_envs", [1, 2])
def test_a_buffer_is_filled(observations, n_envs):
    theirs, ours = pair(200, observations)
    target = sb3s(60 * n_envs, observations, NUMBERS, n_envs=n_envs)
    fill([theirs, ours], random_steps(51, 1, observations))
    assert ours.add_to(target) == 51 - 51 % n_envs
    assert target.pos == 51 // n_envs
    for name in NAMES:
        kept = rows_of(getattr(ours, name), slice(51 % n_envs, None))
        got = rows_of(getattr(target, name), slice(0, target.pos))
        parts = zip(got.values(), kept.values(), strict=True) if isinstance(kept, dict) else [(got, kept)]
        for part, expected in parts:
            check_same(part.reshape(expected.shape), expected)
    assert 1 < target.timeouts.sum() < target.dones.sum()


def test_a_smaller_buffer_gets_the_newest():
    _, ours = pair(200)
    fill([ours], random_steps(51, 1))
    target = ReplayBuffer(20, VECTOR, NUMBERS, "cpu")
    assert ours.add_to(target) == 20
    assert target.full
    np.testing.assert_array_equal(target.actions[:, 0, 0], np.arange(31, 51))
    assert PrioritizedReplayBuffer(9, VECTOR, NUMBERS, "cpu").add_to(target) == 0


def test_stacks_are_put_together():
    columns = columns_of(4)[4]
    theirs, ours = filled_with_stacks(columns)
    ours.add_from(theirs)
    target = sb3s(60, ours.observation_space, ours.action_space)
    assert ours.add_to(target) == 60
    for name in NAMES[:4]:
        check_same(getattr(target, name), rows_of(getattr(theirs, name), in_turn(theirs)))


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        (NStepReplayBuffer(50, VECTOR, NUMBERS, "cpu"), TypeError, "is a NStepReplayBuffer.*different actors"),
        (
            ReplayBuffer(50, VECTOR, NUMBERS, "cpu", optimize_memory_usage=True, handle_timeout_termination=False),
            ValueError,
            "optimize_memory_usage=True",
        ),
        (
            ReplayBuffer(50, VECTOR, NUMBERS, "cpu", handle_timeout_termination=False),
            ValueError,
            "handle_timeout_termination=False",
        ),
    ],
)
def test_buffers_that_could_not_hold_it_are_refused(target, error, message):
    _, ours = pair(50)
    fill([ours], random_steps(30, 1))
    with pytest.raises(error, match=message):
        ours.add_to(target)
    assert target.pos == 0


def test_without_truncations_a_buffer_that_knows_none_is_filled():
    _, ours = pair(50, handle_timeout_termination=False)
    fill([ours], list(random_steps(60, 1))[:30])
    target = ReplayBuffer(50, VECTOR, NUMBERS, "cpu", handle_timeout_termination=False)
    assert ours.add_to(target) == 30
    check_same(target.dones[:30], ours.dones)

import numpy as np
import pytest
from gymnasium import spaces

from sb3_ca2e.replay import ObservationColumn, lead_frames, observation_columns
from sb3_ca2e.replay.block import OBSERVATION
from sb3_ca2e.replay.stacks import each_frame, stacked
from tests.replay.recorded_slot import RecordedSlot


@pytest.mark.parametrize("n_stack", [1, 4])
def test_the_first_transitions_of_a_block(n_stack):
    """Cut off anywhere, and equal to the block that a slot which stops there hands over."""
    columns = observation_columns(spaces.Box(-1, 1, (2 * n_stack,)), n_stack)
    for n in range(1, 31):
        slots = [RecordedSlot(0, columns, np.random.default_rng(0), 0.4) for _ in range(2)]
        whole, expected = slots[0].block(30, 0), slots[1].block(n, 0)
        first = whole.first(n)
        assert len(first) == n
        np.testing.assert_array_equal(first.frames[OBSERVATION], expected.frames[OBSERVATION])
        for name in ("actions", "rewards", "flags", "ages", "priorities"):
            np.testing.assert_array_equal(getattr(first, name), getattr(expected, name))
        assert whole.first(99) is whole


def test_columns_of_a_dict():
    space = spaces.Dict({"a": spaces.Box(0, 255, (4, 8, 8), np.uint8), "b": spaces.Box(-1, 1, (12,), np.float64)})
    columns = observation_columns(space, n_stack=4, axis=0)
    assert {key: column.frame_shape for key, column in columns.items()} == {"a": (1, 8, 8), "b": (3,)}
    assert {key: column.shape for key, column in columns.items()} == {key: box.shape for key, box in space.items()}
    assert lead_frames(columns) == 3
    assert lead_frames(observation_columns(space)) == 0


def test_stacks_along_an_axis_counted_from_the_end():
    column = ObservationColumn((2, 1), np.dtype(np.float32), 2, -1)
    same = ObservationColumn((2, 1), np.dtype(np.float32), 2, 1)
    frames, ages = np.random.default_rng(0).normal(size=(6, 2, 1)).astype(np.float32), np.array([0, 1, 1, 1, 0])
    observations = stacked(frames, ages, same)
    assert observations.shape == (5, *column.shape)
    np.testing.assert_array_equal(stacked(frames, ages, column), observations, strict=True)
    changed = [each_frame(lambda frame: frame + 1, observations, ages, each) for each in (column, same)]
    np.testing.assert_array_equal(*changed, strict=True)

"""
Every attribute that SB3's ``learn`` reads, what changing it does there, and which test shows the same of ours.

The attributes come from SB3's source: with a version that reads another one, the test fails until the table has it.
"""

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import NamedTuple

import pytest
import stable_baselines3 as sb3

from tests.algorithms import test_changed_attributes as attributes
from tests.algorithms import test_changes as changes


def functions_of(algorithm: type, name: str) -> Iterator[FunctionType]:
    """All functions of a name among an algorithm's classes, as ``super()`` may call each."""
    for owner in algorithm.__mro__:
        found = vars(owner).get(name)
        found = getattr(found, "fget", found)
        found = getattr(found, "__func__", found)
        if isinstance(found, FunctionType):
            yield found


def read_by_learn(algorithm: type) -> set[str]:
    """The attributes, methods left out, that ``learn`` and whatever it calls of the model read from ``self``."""
    read, found, to_visit = set(), set(), ["learn"]
    while to_visit:
        for function in functions_of(algorithm, to_visit.pop()):
            if function in found:
                continue
            found.add(function)
            for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
                    if any(functions_of(algorithm, node.attr)):
                        to_visit.append(node.attr)
                    elif isinstance(node.ctx, ast.Load):
                        read.add(node.attr)
                elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "super()":
                    to_visit.append(node.attr)
    return read


class Row(NamedTuple):
    """
    :param callback: what SB3 does when a callback changes it
    :param between: what it does when it is changed between two calls of ``learn``
    :param shown: names of the cases that show it, the test, or why there is none
    """

    callback: str
    between: str
    shown: list[str] | Callable | str


NEXT_ROUND = "the next round collects or updates with it"
NEXT_UPDATE = "the next update uses it"
NEXT_STEP = "the next step uses it"
BY_SB3 = "SB3's own code reads it, here as there"
SAME = "the same"
REFUSED = changes.test_what_actors_cannot_follow_is_refused_in_a_callback
REFUSED_ALWAYS = changes.test_what_the_constructor_would_refuse_is_refused_by_learn
STARTS = "none: it is read when learn() starts"

ATTRIBUTES = {
    # Of both algorithms
    "action_noise": Row(NEXT_ROUND, SAME, ["noise", "noise up", "vectorized noise", "no noise", "noise in place"]),
    "action_space": Row("random actions come from it", SAME, REFUSED),
    "actor": Row(NEXT_UPDATE + ", but SB3 acts with that of the policy", SAME, ["actor", "actor of updates"]),
    "batch_size": Row(NEXT_ROUND, SAME, ["batch_size"]),
    "env": Row("steps it without a reset, and fails", "steps it", REFUSED),
    "ep_info_buffer": Row("the next log is of it", "begins anew with reset_num_timesteps", BY_SB3),
    "ep_success_buffer": Row("the next log is of it", "begins anew with reset_num_timesteps", BY_SB3),
    "gamma": Row(NEXT_UPDATE + "; none with n_steps > 1", SAME, ["gamma", "the same gamma", "n_steps"]),
    "gradient_steps": Row(NEXT_ROUND, SAME, ["gradient_steps", "as many updates as steps", "no updates"]),
    "learning_starts": Row(NEXT_ROUND, SAME, ["learning_starts", "warm-up begins", "warm-up ends", "random actions"]),
    "lr_schedule": Row(NEXT_ROUND, SAME, ["lr_schedule", "learning_rate", "rate in the optimizer"]),
    "n_envs": Row("DQN's target_update_interval is divided by it", SAME, ["n_envs"]),
    "num_timesteps": Row("it counts from there", "the same, or from 0", ["num_timesteps", "num_timesteps back"]),
    "optimize_memory_usage": Row("none", "the newest step is marked", attributes.test_sb3_may_mark_the_newest_step),
    "policy": Row("acts with it, uses its optimizer", SAME, ["policy", "policy of DDPG", "optimizer", "network"]),
    "replay_buffer": Row(NEXT_ROUND, SAME, changes.test_transitions_go_to_the_memory_that_the_model_has),
    "start_time": Row("time/fps is counted from it", "begins anew", BY_SB3),
    "tau": Row(NEXT_UPDATE, SAME, ["tau"]),
    "tensorboard_log": Row("none", STARTS, BY_SB3),
    "train_freq": Row(NEXT_ROUND, SAME, ["train_freq"]),
    "use_sde": Row("fails", "fails", REFUSED_ALWAYS),
    "use_sde_at_warmup": Row("none without use_sde", SAME, "use_sde is refused"),
    "sde_sample_freq": Row("none without use_sde", SAME, "use_sde is refused"),
    "verbose": Row("none", STARTS, BY_SB3),
    "_current_progress_remaining": Row("none: it is overwritten before it is read", SAME, BY_SB3),
    "_custom_logger": Row("none", STARTS, BY_SB3),
    "_episode_num": Row("it goes on counting from there", "the same, or from 0", BY_SB3),
    "_last_obs": Row("acts on it", SAME, "observations are in the actors, and private there as here"),
    "_last_original_obs": Row("is stored", SAME, "observations are in the actors, and private there as here"),
    "_logger": Row("the next log goes there", SAME, attributes.test_another_logger_gets_what_is_logged_next),
    "_n_updates": Row("it goes on counting from there", SAME, ["_n_updates"]),
    "_num_timesteps_at_start": Row("time/fps is counted from it", STARTS, BY_SB3),
    "_stats_window_size": Row("none", STARTS, BY_SB3),
    "_total_timesteps": Row("progress is a part of it; learn() ends as before", STARTS, ["_total_timesteps"]),
    "_vec_normalize_env": Row("normalizes", SAME, REFUSED),
    # Of DQN
    "batch_norm_stats": Row("they are copied", SAME, BY_SB3),
    "batch_norm_stats_target": Row("they are copied to", SAME, BY_SB3),
    "exploration_rate": Row("none: it is overwritten before it is read", SAME, ["exploration_rate", "rate"]),
    "exploration_schedule": Row(NEXT_STEP, SAME, ["exploration_schedule", "schedule", "schedule in place"]),
    "max_grad_norm": Row(NEXT_UPDATE, SAME, ["max_grad_norm"]),
    "q_net": Row(NEXT_UPDATE + ", but SB3 acts with that of the policy", SAME, ["network", "network of updates"]),
    "q_net_target": Row(NEXT_UPDATE, SAME, ["target"]),
    "target_update_interval": Row(NEXT_STEP, SAME, ["target_update_interval"]),
    "_n_calls": Row("targets are updated at other times", SAME, ["_n_calls"]),
    # Of DDPG
    "actor_batch_norm_stats": Row("they are copied", SAME, "here each update copies those of the networks that it has"),
    "actor_batch_norm_stats_target": Row("they are copied to", SAME, "as above"),
    "actor_target": Row(NEXT_UPDATE, SAME, ["target"]),
    "critic": Row(NEXT_UPDATE, SAME, ["network", "optimizer"]),
    "critic_batch_norm_stats": Row("they are copied", SAME, "as above"),
    "critic_batch_norm_stats_target": Row("they are copied to", SAME, "as above"),
    "critic_target": Row(NEXT_UPDATE, SAME, ["target"]),
    "policy_delay": Row("TD3's updates", SAME, REFUSED_ALWAYS),
    "target_noise_clip": Row("TD3's updates", SAME, REFUSED_ALWAYS),
    "target_policy_noise": Row("none while target_noise_clip is 0", SAME, "target_noise_clip is refused"),
}  # fmt: skip


def test_the_table_has_every_attribute_that_learn_reads():
    read = read_by_learn(sb3.DQN) | read_by_learn(sb3.DDPG)
    assert {"gamma", "exploration_schedule", "_last_obs", "critic"} <= read
    assert read - ATTRIBUTES.keys() == set()
    assert ATTRIBUTES.keys() - read == set()


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_what_the_table_names_exists(name):
    shown = ATTRIBUTES[name].shown
    if isinstance(shown, list):
        cases = attributes.CHANGES.keys() | attributes.CHANGES_OF_DQN.keys() | changes.CASES.keys()
        assert set(shown) - cases == set()
        assert shown

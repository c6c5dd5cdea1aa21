"""Learning on a user's ``SubprocVecEnv``, whose workers stay the user's."""

import subprocess

import pytest

from tests.user_script import environment, of_ours, script

LEARNER = """
    import sys
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.monitor import load_results
    from stable_baselines3.common.vec_env import SubprocVecEnv
    from sb3_ca2e import CA2EDDPG, CA2EDQN

    SETTINGS = {
        "CA2EDQN": dict(
            learning_rate=1e-3,
            learning_starts=500,
            train_freq=2,
            gradient_steps=2,
            target_update_interval=250,
            exploration_initial_eps=0.3,
            exploration_final_eps=0.05,
            policy_kwargs={"net_arch": [64, 64]},
        ),
        "CA2EDDPG": dict(
            learning_starts=400, train_freq=1, gamma=0.95, tau=0.01, actor_learning_rate=1e-3, critic_l2=0.0
        ),
    }
    COMMON = dict(n_actors=4, n_processes=2, local_buffer_size=10, actor_update_interval=10, batch_size=64, seed=0)

    if __name__ == "__main__":
        algorithm, env_id, n_timesteps, execution = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
        env = make_vec_env(env_id, 2, vec_env_cls=SubprocVecEnv, monitor_dir="monitor")
        workers = [process.pid for process in env.processes]
        algorithm_class = {"CA2EDQN": CA2EDQN, "CA2EDDPG": CA2EDDPG}[algorithm]
        model = algorithm_class("MlpPolicy", env, execution=execution, **COMMON, **SETTINGS[algorithm])
        model.learn(n_timesteps)
        print(model.get_env() is env and [process.pid for process in env.processes] == workers)
        print(all(process.is_alive() for process in env.processes))
        print(len(load_results("monitor")) >= n_timesteps // 500)
        env.seed(1)
        print(evaluate_policy(model, env, 10)[0])
        print(env.reset().shape[0], len(env.step([env.action_space.sample() for _ in range(2)])[3]))
        model.learn(200, reset_num_timesteps=False)
        print(model.num_timesteps, all(process.is_alive() for process in env.processes))
        env.close()
        print(any(process.is_alive() for process in env.processes))
"""


@pytest.mark.parametrize(
    ("algorithm", "env_id", "n_timesteps", "execution", "at_least"),
    [
        # An untrained network keeps the pole for about 9 steps, a random one for 22.
        ("CA2EDQN", "CartPole-v1", 3000, "sync", 100.0),
        # A random one gets about -1200.
        ("CA2EDDPG", "Pendulum-v1", 4000, "sync", -600.0),
        # No two of these are the same: they end with whatever has been learned.
        ("CA2EDQN", "CartPole-v1", 1000, "async", 1.0),
        ("CA2EDDPG", "Pendulum-v1", 1000, "async", -200 * 16.3),
    ],
)
@pytest.mark.extended
def test_worker_processes_of_the_user_are_learned_on_and_stay_the_users(
    algorithm, env_id, n_timesteps, execution, at_least, tmp_path
):
    command = script(LEARNER, tmp_path, algorithm, env_id, str(n_timesteps), execution)
    done = subprocess.run(command, env=environment(tmp_path), cwd=tmp_path, capture_output=True, text=True)
    assert of_ours(done.stderr) == ""
    same, alive, monitored, mean_reward, stepped, afterwards, left = done.stdout.splitlines()
    assert (same, alive, monitored, stepped, left) == ("True", "True", "True", "2 2", "False")
    assert float(mean_reward) >= at_least
    assert afterwards == f"{n_timesteps + 200} True"

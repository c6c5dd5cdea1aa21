"""A system that can't fork, as far as it can be imitated: one clear error, and learning in one process."""

import subprocess

from tests.user_script import environment, of_ours, script

#: What Windows' Python lacks of what we use is taken away once others have imported it.
WITHOUT = """
    import os, signal, socket, subprocess, sys, multiprocessing.util
    import numba, stable_baselines3, torch, torch.utils.serialization.config, torch.distributions

    gone = {
        os: ["fork", "register_at_fork", "memfd_create", "pidfd_open", "sched_getaffinity", "getpriority", "nice"],
        signal: ["SIGKILL", "SIGCHLD", "pidfd_send_signal", "set_wakeup_fd"],
        socket: ["AF_UNIX", "CMSG_SPACE", "send_fds", "recv_fds"],
    }
    for module, names in gone.items():
        for name in names:
            delattr(module, name)
    sys.modules["resource"] = None
    sys.platform = "win32"

    from sb3_ca2e import CA2EDQN, CA2ECheckpointCallback

    try:
        CA2EDQN("MlpPolicy", "CartPole-v1")
    except ValueError as error:
        print(error)
    model = CA2EDQN("MlpPolicy", "CartPole-v1", execution="sync", n_actors=2, learning_starts=50)
    model.learn(200, CA2ECheckpointCallback(100, "checkpoints", save_replay_buffer=True))
    model.save("model")
    print(CA2EDQN.load("model").num_timesteps, CA2EDQN.resume("checkpoints").num_timesteps)
"""


def test_where_nothing_can_be_forked_sync_learns_and_async_says_so(tmp_path):
    done = subprocess.run(
        script(WITHOUT, tmp_path), env=environment(tmp_path), cwd=tmp_path, capture_output=True, text=True
    )
    assert of_ours(done.stderr) == ""
    assert done.returncode == 0
    told, numbers = done.stdout.splitlines()
    assert "which Windows can't. Give execution='sync'" in told
    assert numbers == "200 200"

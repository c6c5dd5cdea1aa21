"""``sb3-ca2e convert``: an agent's files as safetensors and JSON, which hold nothing that could be executed."""

import argparse
import json
import pathlib
import sys

from sb3_ca2e.priors import hub
from sb3_ca2e.priors.converted import MODEL, write_agent
from sb3_ca2e.priors.find import find_agent
from sb3_ca2e.priors.loading import load_trained_on
from sb3_ca2e.priors.reader.model import read_agent


def main() -> None:
    """Run the command with the arguments in ``sys.argv``."""
    parser = argparse.ArgumentParser(
        description="Read an agent without executing anything in its files, and write it as safetensors and JSON. "
        "The folder can be a prior agent, as any agent's folder can."
    )
    parser.add_argument("agent", help="a zip, a folder of the RL Zoo, zoo:<algorithm> or hub:<owner>/<name>")
    parser.add_argument("--env", help="environment ID that zoo: looks for")
    parser.add_argument("-o", "--output", type=pathlib.Path, help="folder to write (<algorithm>-<environment>)")
    args = parser.parse_args()
    try:
        folder = convert(args.agent, args.env, args.output)
    except (ValueError, ImportError, OSError) as error:
        sys.exit(f"{sys.argv[0]}: {error}")
    print(folder)


def convert(source: str, env_id: str | None = None, folder: pathlib.Path | None = None) -> pathlib.Path:
    """
    :param source: a zip, a folder of the RL Zoo, ``"zoo:<algorithm>"`` or ``"hub:<owner>/<name>"``
    :param env_id: environment that ``"zoo:"`` looks for
    :param folder: where to write, None for ``<algorithm>-<environment>`` in the working directory
    :return: the folder
    :raises ValueError: if there is no such agent, or it can't be read without executing anything
    :raises FileExistsError: if the folder holds an agent already
    """
    files = hub.download(source, None)[0] if source.startswith(hub.PREFIX) else find_agent(source, env_id)
    folder = folder or pathlib.Path("-".join(filter(None, [files.algorithm, files.env_id])).replace("/", "-"))
    if files.model.name == MODEL:
        raise ValueError(f"{files.model.parent} has been converted already.")
    policy = read_agent(files.model, files.algorithm).policy
    write_agent(folder, files.algorithm, policy, load_trained_on(files, trust=False))
    if files.recorded_reward is not None:
        (folder / "results.json").write_text(json.dumps({"mean_reward": files.recorded_reward}), encoding="utf-8")
    return folder

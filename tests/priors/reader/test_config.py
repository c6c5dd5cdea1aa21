"""YAML files of the RL Zoo."""

from collections import OrderedDict

import pytest
import yaml

from sb3_ca2e.priors.reader.config import read_yaml
from sb3_ca2e.priors.reader.errors import UntrustedAgentError


def written(tmp_path, text):
    path = tmp_path / "config.yml"
    path.write_text(text)
    return path


def test_what_rl_zoo3_dumps_is_read(tmp_path):
    config = OrderedDict(
        [("policy", "MlpPolicy"), ("policy_kwargs", "dict(net_arch=[64])"), ("n", 1e5), ("nested", {"a": [1, None]})]
    )

    found = read_yaml(written(tmp_path, yaml.dump(config)))

    assert "!!python/object/apply:collections.OrderedDict" in yaml.dump(config)
    assert found == dict(config)
    assert list(found) == list(config)


def test_plain_yaml_is_read(tmp_path):
    assert read_yaml(written(tmp_path, "frame_stack: 4\nnormalize: true\n")) == {"frame_stack": 4, "normalize": True}


def test_python_in_texts_remains_text(tmp_path):
    text = "__import__('os').system('exit 1')"

    assert read_yaml(written(tmp_path, f'env_wrapper: "{text}"')) == {"env_wrapper": text}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it holds no dictionary"),
        ("- 1\n- 2", "it holds no dictionary"),
        ("1: a", "it holds no dictionary of named entries"),
        ("a: [1", "it is not plain YAML"),
        ("a: !!python/object/apply:os.system ['exit 1']", "os.system"),
        ("a: !!python/object/apply:collections.deque [[]]", "collections.deque"),
        ("!!python/object/apply:collections.OrderedDict\n- - [a, 1, 2]", "OrderedDict has no pairs"),
        ("!!python/object/apply:collections.OrderedDict\nkwds: {a: 1}", "OrderedDict has no pairs"),
        ("!!python/object/apply:collections.OrderedDict\n- - [[a], 1]", "unhashable"),
        ("a: &x [1]\nb: *x", "aliases"),
        ("a: " + "[" * 50 + "]" * 50, "nests over 32 deep"),
        ("a: " + "x" * 70_000, "it has 70003 bytes, over 65536"),
    ],
)
def test_anything_else_is_refused(tmp_path, text, reason):
    with pytest.raises(UntrustedAgentError, match=reason) as refusal:
        read_yaml(written(tmp_path, text))

    assert "config.yml" in str(refusal.value)
    assert "trust=True" in str(refusal.value)

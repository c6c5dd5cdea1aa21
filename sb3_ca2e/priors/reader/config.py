"""Reads the RL Zoo's YAML files without executing anything in them."""

import pathlib
from typing import Any

import yaml

from sb3_ca2e.priors.reader.archive import open_plain
from sb3_ca2e.priors.reader.errors import Unreadable, refusing

#: Most bytes of a file; the RL Zoo's have up to 2000
MAX_FILE = 65_536

#: Most nested lists and dictionaries
MAX_DEPTH = 32


class _Loader(yaml.SafeLoader):
    """Loads YAML's plain values, and the one tag that the RL Zoo writes."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Limit the depth; refuse aliases, which may expand to far more than the file's size."""
        if self.check_event(yaml.AliasEvent):
            raise Unreadable("it repeats parts of itself by aliases")
        self.depth = getattr(self, "depth", 0) + 1
        if self.depth > MAX_DEPTH:
            raise Unreadable(f"it nests over {MAX_DEPTH} deep")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_ordered_dict(self, node: yaml.Node) -> dict[Any, Any]:
        """
        Construct an ``OrderedDict`` as a dictionary, which keeps its order today.

        :param node: arguments of ``OrderedDict``: one list of pairs
        :return: the dictionary
        """
        arguments = self.construct_sequence(node, deep=True) if isinstance(node, yaml.SequenceNode) else []
        if len(arguments) != 1 or not all(isinstance(pair, list) and len(pair) == 2 for pair in arguments[0]):
            raise Unreadable("its OrderedDict has no pairs")
        return dict(arguments[0])


_Loader.add_constructor("tag:yaml.org,2002:python/object/apply:collections.OrderedDict", _Loader.construct_ordered_dict)


def read_yaml(path: pathlib.Path) -> dict[str, Any]:
    """
    Read a YAML file of the RL Zoo, such as ``config.yml``. Strings that look like Python remain strings.

    :param path: the file
    :return: its entries
    :raises UntrustedAgentError: if it has other tags, is not a dictionary, is damaged or too large
    :raises OSError: if the file can't be opened
    """
    with refusing(path):
        with open_plain(path, MAX_FILE) as file:
            text = file.read()
        try:
            value = yaml.load(text, _Loader)
        except yaml.YAMLError as error:
            raise Unreadable(f"it is not plain YAML ({' '.join(str(error).split())[:200]})") from error
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise Unreadable("it holds no dictionary of named entries")
        return value

"""Pickles by hand: every way in which one can have Python call something."""

import marshal
import pathlib
import pickle

#: Code in the registry of extensions, which ``EXT1`` and its like name functions by
EXTENSION_CODE = 0xCA


def text(value: str) -> bytes:
    return b"X" + len(encoded := value.encode()).to_bytes(4, "little") + encoded


def raw(value: bytes) -> bytes:
    return b"B" + len(value).to_bytes(4, "little") + value


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def items(*values: bytes) -> bytes:
    return b"(" + b"".join(values) + b"t"


def call(function: bytes, *values: bytes) -> bytes:
    return function + items(*values) + b"R"


def whole(expression: bytes) -> bytes:
    return b"\x80\x04" + expression + b"."


def before(expression: bytes, pickled: bytes) -> bytes:
    """Execute something, drop the result and go on with an honest pickle, which is all that is left in the end."""
    return b"\x80\x04" + expression + b"0" + pickled[2:]


def calls(canary: pathlib.Path) -> dict[str, bytes]:
    """
    :param canary: what is made, a file or a folder, by whoever executes one of them
    :return: expressions by the opcode or the way that they use
    """
    path, write = text(str(canary)), text("w")
    opens, makes = name("io", "open"), name("os", "mkdir")
    lazily = items(opens, b"]" + path + b"a", b"]" + write + b"a")  # arguments of map, which calls when it is listed
    mapped, listed = name("builtins", "map"), name("builtins", "list")
    namespace = call(name("types", "SimpleNamespace"))

    def having(attribute: str) -> bytes:
        """An object with an attribute that calls, on which opcodes act."""
        return namespace + b"}" + text(attribute) + makes + b"sb"

    source = text(f"open({str(canary)!r}, 'w')")
    code = compile(f"open({str(canary)!r}, 'w')", "canary", "exec")
    loaded = call(name("marshal", "loads"), raw(marshal.dumps(code)))
    expression = call(opens, path, write)
    return {
        "REDUCE": expression,
        "STACK_GLOBAL": call(text("io") + text("open") + b"\x93", path, write),
        "STACK_GLOBAL of a dotted name": call(text("pathlib") + text("os.mkdir") + b"\x93", path),
        "INST": b"(" + path + write + b"iio\nopen\n",
        "OBJ": b"(" + opens + path + write + b"o",
        "NEWOBJ": call(listed, mapped + lazily + b"\x81"),
        "NEWOBJ_EX": call(listed, mapped + lazily + b"}" + b"\x92"),
        "BUILD": having("__setstate__") + path + b"b",
        "APPEND": having("append") + path + b"a",
        "APPENDS": having("append") + b"(" + path + b"e",
        "ADDITEMS": having("add") + b"(" + path + b"\x90",
        "EXT1": call(b"\x82" + EXTENSION_CODE.to_bytes(1, "little"), path, write),
        "EXT2": call(b"\x83" + EXTENSION_CODE.to_bytes(2, "little"), path, write),
        "EXT4": call(b"\x84" + EXTENSION_CODE.to_bytes(4, "little"), path, write),
        "DUP and memo": opens + b"\x94" + b"2" + b"0" + b"0" + call(b"h\x00", path, write),
        "import of a module": name(canary.stem, "attribute"),
        "import_module": call(name("importlib", "import_module"), text(canary.stem)),
        "eval": call(name("builtins", "eval"), source),
        "exec": call(name("builtins", "exec"), source),
        "getattr": call(
            call(name("builtins", "getattr"), call(name("importlib", "import_module"), text("os")), text("mkdir")), path
        ),
        "os.system": call(name("os", "system"), text(f"touch {canary}")),
        "subprocess": call(name("subprocess", "check_call"), b"(" + text("touch") + path + b"l"),
        "functools.partial": call(call(name("functools", "partial"), opens, path, write)),
        "operator.methodcaller": call(
            call(name("operator", "methodcaller"), text("touch")), call(name("pathlib", "Path"), path)
        ),
        "marshal": call(call(name("types", "FunctionType"), loaded, b"}")),
        "a pickle in a pickle": call(name("pickle", "loads"), raw(whole(expression))),
        "a pickle in torch": call(name("torch.storage", "_load_from_bytes"), raw(whole(expression))),
        "an array of objects": (
            call(name("numpy.core.multiarray", "_reconstruct"), name("numpy", "ndarray"), b"K\x00\x85", b"C\x01b")
            + items(b"K\x01", b"K\x01\x85", pickle_of_dtype("O"), b"\x89", b"]" + expression + b"a")
            + b"b"
        ),
    }


def pickle_of_dtype(code: str) -> bytes:
    return call(name("numpy", "dtype"), text(code), b"\x89", b"\x88")


class Calls:
    """
    Pickled, it calls.

    :param canary: what it makes
    """

    def __init__(self, canary: pathlib.Path):
        self.canary = canary

    def __reduce__(self):
        return open, (str(self.canary), "w")


def honest(value: object) -> bytes:
    return pickle.dumps(value, 4)

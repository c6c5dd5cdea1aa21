"""The arguments that CA2E adds to those of an algorithm of SB3, each with its type and its default, once."""

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, TypedDict, Unpack, get_args, get_origin, get_type_hints

from sb3_ca2e.priors.agent import PriorSource


class CA2EArguments(TypedDict, total=False):
    """
    What every algorithm takes: ``**ca2e: Unpack[CA2EArguments]``.

    :param prior_agents: pretrained agents; each takes one slot until it retires (``prior_alpha``). A model, a path,
        ``"zoo:ppo"``, ``"hub:sb3/ppo-CartPole-v1"``, or a :class:`~sb3_ca2e.PriorAgent`
    :param n_actors: number of slots, priors included; None for ``env.num_envs`` if that is over 1, else 8
    :param n_processes: number of actor processes; None for one per CPU, and at most one per slot
    :param execution: ``"async"``, or ``"sync"`` to run the same actors and learner in one process, repeatably
    :param prior_alpha: a prior retires at ``r >= baseline + (alpha - 1) * abs(baseline)``
    :param prior_confidence: confidence with which this must be known of the learner's average return r
    :param prior_patience: consecutive checks that must pass before a prior retires
    :param local_buffer_size: transitions that a slot hands over at once (B of the paper)
    :param actor_update_interval: transitions of a slot between two checks for newer parameters
    :param rate_limit: keep updates per transition at ``gradient_steps / (train_freq * n_envs)``; False lets actors
        and learner run freely, as in the paper
    :param info_keys: entries of ``info`` that callbacks see
    :param inference: where actors' networks run: ``"actor"``, on the CPU in each actor process; ``"device"``, on the
        model's device, where one pass serves all; ``"auto"``, on a device other than the CPU if it answers at least
        twice as fast, which is timed when learning starts
    :param compile: compile the update: True, False, or ``"auto"`` if enough updates remain to repay compilation.
        Updates run eagerly until it is done, and if it fails (``True`` then warns)
    :param actor_restarts: how often a failed actor process is replaced within ten minutes before
        :class:`~sb3_ca2e.ActorError` is raised; 0 for never
    :param actor_timeout: seconds without a heartbeat after which an actor process is replaced, ten times as many
        while an environment is made or reset; None for never
    """

    prior_agents: Annotated[Sequence[PriorSource], ()]
    n_actors: Annotated[int | None, None]
    n_processes: Annotated[int | None, None]
    execution: Annotated[str, "async"]
    prior_alpha: Annotated[float, 1.0]
    prior_confidence: Annotated[float, 0.9]
    prior_patience: Annotated[int, 3]
    local_buffer_size: Annotated[int, 50]
    actor_update_interval: Annotated[int, 100]
    rate_limit: Annotated[bool, True]
    info_keys: Annotated[Sequence[str], ()]
    inference: Annotated[str, "auto"]
    compile: Annotated[bool | str, "auto"]
    actor_restarts: Annotated[int, 10]
    actor_timeout: Annotated[float | None, 60.0]


def _parameters() -> Iterator[inspect.Parameter]:
    for name, hint in get_type_hints(CA2EArguments, include_extras=True).items():
        annotation, default = get_args(hint)
        yield inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


#: The same as parameters of a function, by name.
PARAMETERS = {parameter.name: parameter for parameter in _parameters()}


def describe_constructor(algorithm: type) -> None:
    """
    Give a constructor that takes ``**ca2e`` the signature and the documentation of all that it takes.

    :param algorithm: a class with an ``__init__`` and a docstring of its own
    """
    init: Callable[..., None] = algorithm.__init__  # type: ignore[misc]
    signature = inspect.signature(init)
    parameters = list(signature.parameters.values())
    if not parameters or not _takes_ca2e(parameters[-1].annotation):
        return
    added = [each for name, each in PARAMETERS.items() if name not in signature.parameters]
    init.__signature__ = signature.replace(parameters=[*parameters[:-1], *added])  # type: ignore[attr-defined]
    texts: dict[str, str] = {}
    for source in (algorithm, CA2EArguments, *algorithm.__mro__[1:]):
        texts = dict(_documented(source)) | texts
    summary, _, _ = (inspect.getdoc(algorithm) or "").partition("\n:param ")
    described = [texts[name] for name in inspect.signature(init).parameters if name in texts]
    algorithm.__doc__ = "\n".join([summary, *described])


def _takes_ca2e(annotation: Any) -> bool:
    if isinstance(annotation, str):  # of a module with postponed annotations
        return annotation.endswith("Unpack[CA2EArguments]")
    origin: Any = get_origin(annotation)
    return origin is Unpack and get_args(annotation) == (CA2EArguments,)


def names_taken(algorithm: type, mixin: type) -> list[str]:
    """
    Collect the names of all arguments that a constructor takes or passes on.

    :param algorithm: a class of an algorithm
    :param mixin: the class in its bases that takes CA2E's arguments, and passes the rest on
    :return: names, those of the outermost constructor first
    """
    names = dict[str, None]()
    below = False
    for base in algorithm.__mro__:
        if "__init__" in vars(base):
            parameters = inspect.signature(base.__init__).parameters.values()  # type: ignore[misc]
            names |= dict.fromkeys(each.name for each in parameters if each.kind in _NAMED and each.name != "self")
            if below and all(each.kind is not each.VAR_KEYWORD for each in parameters):
                break
        if base is mixin:
            names |= dict.fromkeys(PARAMETERS)
            below = True
    return list(names)


_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def _documented(source: type) -> list[tuple[str, str]]:
    """Parameters that a docstring describes, and how; labels of SB3's own documentation are not in ours."""
    doc = re.sub(r"\s*See :ref:`\w+`", "", inspect.cleandoc(source.__doc__ or ""))
    return re.findall(r"^(?=:param (\w+):)(.+(?:\n[ \t]+.+)*)", doc, re.M)

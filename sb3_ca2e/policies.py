"""The paper's networks as SB3 policies: layer normalisation in fully connected layers, linear outputs."""

from typing import Any

import gymnasium as gym
import torch as th
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, NatureCNN, create_mlp
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from stable_baselines3.td3.policies import Actor, TD3Policy
from torch import nn

NORM: list[type[nn.Module]] = [nn.LayerNorm]


def fused(kwargs: dict[str, Any]) -> dict[str, Any]:
    """
    Make Adam step all parameters in one kernel, which halves its time on small networks.

    :param kwargs: arguments of a policy; other optimizers, and implementations that the user chose, are kept
    :return: ``kwargs``
    """
    given = kwargs.get("optimizer_kwargs") or {}
    # Adam takes only one of these; ``capturable`` goes with all of them.
    if kwargs.get("optimizer_class", th.optim.Adam) in (th.optim.Adam, th.optim.AdamW) and given.keys().isdisjoint(
        {"fused", "foreach", "differentiable"}
    ):
        kwargs["optimizer_kwargs"] = {"fused": True, **given}
    return kwargs


class LayerNormCNN(NatureCNN):
    """
    The convolutions of the Nature paper, with a layer normalisation in the fully connected layer after them.

    :param observation_space: image space, channels first
    :param features_dim: width of the fully connected layer
    :param normalized_image: whether images are already scaled to 0 to 1
    """

    def __init__(self, observation_space: gym.Space, features_dim: int = 512, normalized_image: bool = False) -> None:
        super().__init__(observation_space, features_dim, normalized_image)
        hidden, activation = self.linear
        self.linear = nn.Sequential(hidden, nn.LayerNorm(features_dim), activation)


def layer_norm_mlp(network: QNetwork | Actor, output_dim: int, squash_output: bool = False) -> nn.Sequential:
    """
    Make fully connected layers as a network has them, with layer normalisation in every hidden layer.

    :param network: network with the widths and the activation
    :param output_dim: number of outputs
    :param squash_output: whether a tanh limits the outputs
    :return: the layers
    """
    sizes, activation = (network.features_dim, output_dim, network.net_arch), network.activation_fn
    layers = create_mlp(*sizes, activation, squash_output=squash_output, post_linear_modules=NORM)
    return nn.Sequential(*layers)


class LayerNormQNetwork(QNetwork):
    """A Q-network with layer normalisation in every hidden layer; parameters as SB3's ``QNetwork``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.q_net = layer_norm_mlp(self, int(self.action_space.n))


class LayerNormActor(Actor):
    """A deterministic actor with layer normalisation in every hidden layer; parameters as SB3's ``Actor``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.mu = layer_norm_mlp(self, get_action_dim(self.action_space), squash_output=True)


class LayerNormCritic(ContinuousCritic):
    """A critic with layer normalisation in every hidden layer; parameters as SB3's ``ContinuousCritic``."""

    def __init__(
        self,
        observation_space: gym.Space,
        action_space: gym.spaces.Box,
        net_arch: list[int],
        features_extractor: BaseFeaturesExtractor,
        features_dim: int,
        activation_fn: type[nn.Module] = nn.ReLU,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            observation_space, action_space, net_arch, features_extractor, features_dim, activation_fn, **kwargs
        )
        width = features_dim + get_action_dim(action_space)
        for index in range(self.n_critics):
            q_net = nn.Sequential(*create_mlp(width, 1, net_arch, activation_fn, post_linear_modules=NORM))
            self.add_module(f"qf{index}", q_net)
            self.q_networks[index] = q_net


class CA2EDQNPolicy(DQNPolicy):
    """The Q-network of CA2E-DQN for vectors: 64, 64 with layer normalisation; parameters as SB3's ``DQNPolicy``."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **fused(kwargs))

    def make_q_net(self) -> QNetwork:
        net_args = self._update_features_extractor(self.net_args, features_extractor=None)
        return LayerNormQNetwork(**net_args).to(self.device)


class CA2EDQNCnnPolicy(CA2EDQNPolicy):
    """The Q-network of CA2E-DQN for images; parameters as SB3's ``DQNPolicy``."""

    def __init__(self, *args: Any, features_extractor_class: type[BaseFeaturesExtractor] = LayerNormCNN, **kwargs: Any):
        if features_extractor_class is LayerNormCNN:  # the extractor's layer of 512 is the hidden layer
            kwargs["net_arch"] = kwargs.get("net_arch") or []
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)


class CA2EDQNMultiInputPolicy(CA2EDQNPolicy):
    """The Q-network of CA2E-DQN for dictionaries; parameters as SB3's ``DQNPolicy``."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **{"features_extractor_class": CombinedExtractor, **kwargs})


class CA2EDDPGPolicy(TD3Policy):
    """Actor and critic of CA2E-DDPG, 64, 64 with layer normalisation each; parameters as SB3's ``TD3Policy``."""

    def __init__(self, *args: Any, **kwargs: Any):
        if len(args) < 4:
            kwargs["net_arch"] = [64, 64] if kwargs.get("net_arch") is None else kwargs["net_arch"]
        super().__init__(*args, **fused(kwargs))

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> Actor:
        actor_kwargs = self._update_features_extractor(self.actor_kwargs, features_extractor)
        return LayerNormActor(**actor_kwargs).to(self.device)

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> ContinuousCritic:
        critic_kwargs = self._update_features_extractor(self.critic_kwargs, features_extractor)
        return LayerNormCritic(**critic_kwargs).to(self.device)


class CA2EDDPGCnnPolicy(CA2EDDPGPolicy):
    """Actor and critic of CA2E-DDPG for images; parameters as SB3's ``TD3Policy``."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **{"features_extractor_class": LayerNormCNN, **kwargs})


class CA2EDDPGMultiInputPolicy(CA2EDDPGPolicy):
    """Actor and critic of CA2E-DDPG for dictionaries; parameters as SB3's ``TD3Policy``."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **{"features_extractor_class": CombinedExtractor, **kwargs})


def l2_penalty(module: nn.Module) -> th.Tensor:
    """
    Return half the sum of squared weights, without biases and gains of normalisations.

    :param module: network
    :return: a scalar
    """
    weights = [parameter for parameter in module.parameters() if parameter.ndim > 1]
    return 0.5 * sum(weight.square().sum() for weight in weights)  # type: ignore[return-value]

"""Which settings of an agent nothing reads, as the others stand: no record should state them."""

from typing import Any

from rlab.networks.spaces import Box, Space

Unread = dict[str, str]  # setting -> why it is not read


def unread_of(settings: Any, action_space: Space) -> Unread:
    """The settings of an agent that it would not read with these actions, as its config's own `unread` says; a config
    without one reads all."""
    own = getattr(settings, "unread", None)
    return {} if own is None else own(action_space)


def unread_shared(config: Any) -> Unread:
    """Those of the learning rate's schedule, the optimizer and the scaling, which all agents here have."""
    found: Unread = {}
    if config.lr_schedule == "constant":
        found |= dict.fromkeys(("lr_final", "lr_steps"), "lr_schedule is constant")
    elif config.lr_schedule != "step":
        found["lr_steps"] = f"it is for the step schedule, and lr_schedule is {config.lr_schedule}"
    if config.optimizer in ("sgd", "momentum"):
        found["optimizer_eps"] = f"the optimizer {config.optimizer} has none"
    if config.obs_scaling != "fixed":
        found["obs_scale"] = f"it is for obs_scaling fixed, and that is {config.obs_scaling}"
    return found


def unread_of_boxes(action_space: Space) -> Unread:
    """Those that are for Box actions alone."""
    if isinstance(action_space, Box):
        return {}
    return dict.fromkeys(("squash", "log_std_init"), f"it is for Box actions, and these are {action_space}")

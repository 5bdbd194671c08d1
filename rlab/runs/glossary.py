"""The meaning of every tag: one table for TensorBoard's descriptions, `rlab list metrics` and the documentation.

Other people's agents may report further tags; for rlab's agents a test compares this table with what they write.
"""

from dataclasses import dataclass

RETURN, STEPS = "reward", "env steps"
ONLINE, SUPERVISED = "agents that learn in an env", "rlab.supervised"
QS, ACTOR_CRITICS = "dqn, double_dqn, rainbow, dqfd, cql", "ppo, a2c, reinforce"
OFF_POLICY, SOFT = "sac, td3, ddpg, crossq, droq", "sac, crossq, droq"
C51, QUANTILES = f"{QS} (value_head c51)", f"{QS} (value_head qr or iqn)"
JUDGING = "evaluation"


@dataclass(frozen=True)
class Tag:
    """One row of the table."""

    name: str
    unit: str  # empty: a number without one
    meaning: str
    writer: str  # whose runs have it

    @property
    def description(self) -> str:
        """The text beside a chart."""
        return f"{self.meaning} ({self.unit})" if self.unit else self.meaning


TAGS = (
    Tag(
        "return",
        RETURN,
        "what the HPARAMS tab compares runs by: the final return, before that the last eval/return",
        JUDGING,
    ),
    Tag(
        "eval/return",
        RETURN,
        "undiscounted return of greedy episodes in between; over seeds the interquartile mean",
        JUDGING,
    ),
    Tag("eval/return_low", RETURN, "lower end of its 95 % interval for other training seeds", JUDGING),
    Tag("eval/return_high", RETURN, "upper end of its 95 % interval for other training seeds", JUDGING),
    Tag("eval/length", STEPS, "mean length of these episodes", JUDGING),
    Tag("final/return", RETURN, "the same for the final weights, on other episodes: what the run reports", JUDGING),
    Tag("final/return_low", RETURN, "lower end of its 95 % interval for other training seeds", JUDGING),
    Tag("final/return_high", RETURN, "upper end of its 95 % interval for other training seeds", JUDGING),
    Tag("final/length", STEPS, "mean length of these episodes", JUDGING),
    Tag("train/episode_return", RETURN, "mean return of the exploring episodes that ended since the last row", ONLINE),
    Tag("train/episode_length", STEPS, "mean length of these episodes", ONLINE),
    Tag("train/episodes", "episodes", "how many training episodes have ended", ONLINE),
    Tag("train/transitions", "transitions", "what was collected to learn from: env steps without resets", ONLINE),
    Tag("train/env_restarts", "restarts", "how often envs that failed were made again, with --env-restarts", ONLINE),
    Tag("train/updates", "updates", "gradient steps so far", "all"),
    Tag("train/epoch", "epochs", "passes over the data so far", SUPERVISED),
    Tag(
        "train/accuracy",
        "share",
        "how often the greedy action, or the label, is the one of the data",
        f"bc, encoder, {SUPERVISED}",
    ),
    Tag(
        "train/action_error", "half ranges", "mean distance of continuous actions from those of the data", "bc, encoder"
    ),
    Tag("train/absolute_error", "as the target", "mean distance of predicted numbers from the data's", SUPERVISED),
    Tag(
        "train/forward_error",
        "share",
        "error of the predicted next features; 1 is that of predicting no change",
        "encoder",
    ),
    Tag(
        "train/rows_learned_fraction",
        "share",
        "of a rollout's rows that belong to episodes which ended in it",
        "reinforce",
    ),
    Tag("validation/loss", "", "the loss on held-out rows; early stopping goes by it", f"bc, encoder, {SUPERVISED}"),
    Tag(
        "validation/best_loss",
        "",
        "the lowest such loss so far: the weights that the run ends with",
        "runs with --patience",
    ),
    Tag("validation/accuracy", "share", "train/accuracy on held-out rows", f"bc, encoder, {SUPERVISED}"),
    Tag("validation/action_error", "half ranges", "train/action_error on held-out rows", "bc, encoder"),
    Tag("validation/absolute_error", "as the target", "train/absolute_error on held-out rows", SUPERVISED),
    Tag("validation/forward_error", "share", "train/forward_error on held-out rows", "encoder"),
    Tag("loss/td_huber", "", "Huber loss of the temporal-difference errors", QS),
    Tag("loss/td_squared", "", "squared loss of the temporal-difference errors", QS),
    Tag("loss/td_divergence", "nats", "divergence of the predicted distribution over returns from its target", C51),
    Tag("q/outside_support", "share", "of the targets' probability beyond value_min and value_max", C51),
    Tag("loss/td_quantile", "", "quantile regression loss of the predicted returns", QUANTILES),
    Tag(
        "loss/margin", "", "large-margin loss on demonstrated actions (DQfD)", "dqfd; demonstrations in dqn, double_dqn"
    ),
    Tag(
        "loss/conservative",
        "",
        "how much actions that nobody demonstrated are overvalued (CQL)",
        "cql; demonstrations in dqn, double_dqn",
    ),
    Tag("loss/q", "", "squared error of Q", "iql"),
    Tag("loss/cloning", "", "loss of demonstrated actions, beside the policy's own", f"demonstrations in {OFF_POLICY}"),
    Tag("loss/critics", "", "sum over a member's critics of half their squared errors", OFF_POLICY),
    Tag("loss/actor", RETURN, "the loss of the policy: what its actions are worth to the critics, negated", OFF_POLICY),
    Tag(
        "loss/policy",
        "",
        "the loss of the policy: its (clipped) surrogate, or the cloning loss",
        f"{ACTOR_CRITICS}, iql, bc",
    ),
    Tag("loss/value", "", "the loss of the state value", f"{ACTOR_CRITICS}, iql, bc"),
    Tag("loss/inverse", "", "loss of the action predicted from the observations around it", "encoder"),
    Tag("loss/classifier", "", "loss of the action predicted from the observation", "encoder"),
    Tag("loss/forward", "", "squared error of the predicted next features", "encoder"),
    Tag("loss/cross_entropy", "nats", "cross entropy of the labels", SUPERVISED),
    Tag("loss/squared", "", "squared error", SUPERVISED),
    Tag("loss/huber", "", "Huber loss", SUPERVISED),
    Tag("loss/teacher", "", "how far the policy is from its teacher's", "runs with --teacher"),
    Tag(
        "q/mean",
        RETURN,
        "mean Q value over the batch and the actions; of the actions taken beside DQN",
        f"{QS}, iql, {OFF_POLICY}",
    ),
    Tag("value/mean", RETURN, "mean state value over the batch", "iql"),
    Tag(
        "value/explained_variance",
        "share",
        "of the targets' variance that the value explains; 1 is all of it",
        ACTOR_CRITICS,
    ),
    Tag("policy/entropy", "nats", "entropy of the policy: how undecided it is", f"{ACTOR_CRITICS}, {SOFT}"),
    Tag("policy/temperature", "", "weight of the entropy beside rewards", SOFT),
    Tag("policy/kl", "nats", "how far the policy has moved from the one that collected the rollout", "ppo"),
    Tag("policy/clip_fraction", "share", "of the rows whose probability ratio is outside the clipping range", "ppo"),
    Tag("policy/clip_range", "", "the clipping range at this time", "ppo"),
    Tag("policy/weight", "", "mean weight of the data's actions in the policy's loss", "iql"),
    Tag("explore/epsilon", "probability", "of a random action", "dqn, double_dqn, rainbow"),
    Tag("replay/beta", "", "exponent of importance weights", "agents that learn from prioritised replay"),
    Tag("explore/uniform", "", "1 while actions are uniform, before learning starts", OFF_POLICY),
    Tag("features/deviation", "", "mean deviation of the features over a batch; near 0 they have collapsed", "encoder"),
    Tag("optimizer/learning_rate", "", "the learning rate at this time", "all"),
    Tag("critics/learning_rate", "", "that of the critics", OFF_POLICY),
    Tag("temperature/learning_rate", "", "that of the temperature", SOFT),
    Tag("grad/norm", "", "norm of the gradient before clipping", "all"),
    Tag("grad/critics_norm", "", "that of the critics", OFF_POLICY),
    Tag("sparsity/zeros", "share", "of the policy's weights that are 0", "runs with --sparsity"),
    Tag(
        "film",
        "",
        "a greedy episode of the first seed, on the IMAGES tab and in the folder films",
        "runs with --film-every",
    ),
    Tag("time/env_steps_per_second", "env steps / s", "speed since the last row, of each member", ONLINE),
    Tag("time/updates_per_second", "updates / s", "speed since the last row", "agents that learn from a dataset"),
)
GLOSSARY = {tag.name: tag for tag in TAGS}


def rows() -> list[dict[str, str]]:
    """The table as plain data, in the order in which it is shown."""
    return [{"metric": tag.name, "unit": tag.unit, "what": tag.meaning, "of": tag.writer} for tag in TAGS]

"""Which settings belong together on a help page, and which of them most people use."""

# Heading -> names, in the order in which a page shows them. A setting in none of them is the agent's own.
GROUPS: dict[str, tuple[str, ...]] = {
    "run": (
        *("run", "env_steps", "updates", "seeds", "seed", "member", "agent", "device", "devices", "jobs", "engine"),
        *("compile", "threads", "deterministic", "on_nan"),
        *("allow_version_change", "experiment", "vary", "out", "trust", "quiet", "json"),
    ),
    "search": (
        *("space", "ranges", "method", "trials", "storage", "finalists", "finalist_seeds", "report_seeds", "episodes"),
        *("vectorised", "keep_trials"),
    ),
    "environment": (
        *("env", "env_kwargs", "wrapper", "num_envs", "vector", "max_episode_steps", "env_timeout", "env_restarts"),
    ),
    "fine-tuning": ("strategy", "layer_decay", "unfreeze_every", "lora_rank", "lora_alpha", "critic_warmup"),
    "network": (
        *("network", "hidden", "activation", "layer_norm", "dropout", "init", "init_gain", "actor_gain", "critic_gain"),
        *("shared_body", "dueling", "squash", "log_std_init", "obs_scaling", "obs_scale", "model_hidden"),
        *("memory", "memory_size", "memory_window", "critic_hidden", "critics", "target_critics"),
    ),
    "optimizer": (
        *("learning_rate", "optimizer", "optimizer_eps", "max_grad_norm", "weight_decay", "l1", "sparsity", "beta1"),
        *("lr_schedule", "lr_final", "lr_warmup_fraction", "lr_steps"),
    ),
    "replay and batches": (
        *("replay_capacity", "batch_size", "n_step", "learning_starts", "learn_every", "updates_per_learn", "utd"),
        *("target_every", "target_tau", "policy_delay", "replay", "priority_alpha", "priority_beta"),
        *("hindsight", "hindsight_goals"),
        *("sequence_length", "burn_in", "stored_state"),
    ),
    "rollout": ("rollout_steps", "epochs", "minibatches", "normalize_advantage", "target_kl"),
    "exploration": (
        *("epsilon_start", "epsilon_end", "epsilon_fraction", "epsilon_duration", "entropy_weight", "entropy_final"),
        *("novelty", "novelty_weight", "novelty_hidden", "novelty_features", "novelty_learning_rate"),
        *("noisy", "noisy_sigma"),
        *("temperature", "target_entropy", "entropy_share", "exploration_noise", "exploration_scale"),
        *("target_noise", "noise_clip"),
    ),
    "learning": (
        *("gamma", "gae_lambda", "loss", "value_weight", "clip", "clip_final", "clip_value", "reward_scaling"),
        *("baseline", "objective", "forward_weight", "expectile", "beta", "max_weight", "label_smoothing"),
        *("reward_clip", "class_weights", "obs_noise", "validation_fraction", "patience"),
        *("demonstration_loss", "demonstration_weight", "margin", "cloning_weight"),
        *("value_head", "atoms", "value_min", "value_max", "quantiles", "quantile_kappa"),
        *("iqn_samples", "iqn_points", "iqn_cosines"),
        *("value_rescaling", "munchausen", "munchausen_alpha", "munchausen_temperature", "munchausen_clip"),
    ),
    "demonstrations and teacher": (
        *("dataset", "dataset_episodes", "demonstration_share", "teacher", "teacher_member", "teacher_weight"),
        *("teacher_fraction", "teacher_temperature"),
    ),
    "evaluation": ("eval_every", "eval_episodes", "final_eval_episodes", "eval_envs", "eval_alone", "judge"),
    "saving and logging": (
        "checkpoint_every",
        "keep_checkpoints",
        "log_every",
        "log",
        "log_project",
        "log_episodes",
        "film_every",
    ),
    "serving": ("sources", "host", "port", "token_file", "workers", "models", "record", "log_requests"),
    "limits of the server": (
        *("max_body_bytes", "max_header_bytes", "max_rows", "max_waiting", "max_connections", "request_seconds"),
        *("idle_seconds", "stop_seconds", "max_sequences", "sequence_seconds", "max_recorded_mib"),
    ),
}
GROUP_OF = {name: heading for heading, names in GROUPS.items() for name in names}

# What a page shows unless --help-all asks for the rest.
COMMON = frozenset(
    {
        *("run", "env_steps", "updates", "seeds", "seed", "device", "experiment", "out", "member", "agent"),
        *("env", "env_kwargs", "wrapper", "num_envs", "strategy", "hidden", "learning_rate", "batch_size"),
        *("replay_capacity", "rollout_steps", "epochs", "minibatches", "epsilon_fraction", "entropy_weight", "gamma"),
        *("dataset", "teacher", "eval_every"),
        *("space", "ranges", "method", "trials", "storage", "finalists", "jobs"),
    }
)
SHORT_PAGE = 25  # a verb with no more settings than this shows all of them

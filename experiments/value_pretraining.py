"""Which loss makes a Q network of demonstrations? Judged before it goes online and, harder, by what happens then.

The candidates of double DQN on 20 expert episodes of LunarLander-v3: no loss on the demonstrated action, DQfD's margin
and CQL's cross-entropy, each with 1- and 10-step targets. Then double DQN goes on for 10 000 env steps, without the
demonstrations, which would hide a Q function that is none.

    python -m rlab.experiments.value_pretraining
"""

from typing import Any

import numpy as np

import rlab
from rlab.experiments.studies import demonstrations, expert, judged, of_seeds, record, run_folder, say

ENV, AGENT, SEEDS, UPDATES = "LunarLander-v3", "double_dqn", 10, 5_000
LOSSES = ("none", "margin", "conservative")
STEPS = (1, 10)
ONLINE: dict[str, Any] = {"env_steps": 10_000, "eval_every": 1_000, "eval_episodes": 20, "learning_rate": 3e-4}


def main() -> None:
    """Pretrain with each, go on online, record."""
    dataset = demonstrations("value-pretraining", expert("ppo", ENV), 20)
    results = []
    for loss in LOSSES:
        for n_step in STEPS:
            name = f"{loss}, {n_step}-step"
            settings: dict[str, Any] = {"seeds": SEEDS, "updates": UPDATES, "eval_every": UPDATES, "eval_episodes": 20}
            out = run_folder(f"value-{loss}-{n_step}")
            pretrained = rlab.pretrain(
                "bc", dataset, agent=AGENT, out=out, demonstration_loss=loss, n_step=n_step, **settings
            )
            out = run_folder(f"value-{loss}-{n_step}-online")
            tuned = rlab.finetune(pretrained.path, agent=AGENT, out=out, final_eval_episodes=0, **ONLINE)
            before, after = pretrained.curve()[1][:, -1], tuned.curve()[1]
            lowest = after.min(axis=1)
            found: dict[str, Any] = {
                "loss": loss,
                "n_step": n_step,
                "pretrained": judged(pretrained),
                "lowest_online": of_seeds(lowest),
                "last_online": of_seeds(after[:, -1]),
                "seeds_that_keep_nine_tenths": int((lowest >= 0.9 * before).sum()) if np.all(before > 0) else None,
            }
            results.append(found)
            iqms = [found[key]["iqm"] for key in ("pretrained", "lowest_online", "last_online")]
            say(f"{name}: pretrained {iqms[0]:.1f}, lowest online {iqms[1]:.1f}, after 10 000 steps {iqms[2]:.1f}")
    record("value_pretraining", {"env": ENV, "updates": UPDATES, "online": ONLINE, "results": results})


if __name__ == "__main__":
    main()

# ruff: noqa: E501 - a table of cases, one a line
"""The corpus: good artefacts, each with one thing wrong with it, and the verbs that must refuse it.

A case is made by a function that gets a copy of the good folder (see `conftest.good`) and changes it. The files of runs
are sealed again after the change: their checksums are right, as those that a hostile author would write.
"""

import hashlib
import json
import os
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Change = Callable[[Path], None]
SECRET = "outside"  # a file beside the copy, which nothing may touch


@dataclass(frozen=True)
class Case:
    """One hostile artefact."""

    name: str
    reason: str  # why it is refused
    verb: tuple[str, ...]  # the command line that must refuse it
    change: Change
    codes: tuple[int, ...] = (1, 2)  # 0 too: where the verb goes on to others, or the artefact is passed over


def cases() -> list[Case]:
    """The whole corpus; names are unique."""
    found = [
        *_special_files(),
        *_json_files(),
        *_values_of_config(),
        *_values_of_policies(),
        *_weights(),
        *_checkpoints(),
        *_logs(),
        *_manifests(),
        *_experiments(),
        *_npz_files(),
        *_onnx_files(),
        *_other_exports(),
        *_datasets(),
    ]
    assert len({case.name for case in found}) == len(found)
    return found


# ---------------------------------------------------------------------------------------------------------------- tools


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read(path: Path) -> Any:
    return json.loads(path.read_bytes())


def write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


def put(value: Any, place: str, new: Any) -> None:
    """Set what lies at `a/b/0`; a function gets the old value; `DELETE` takes it away."""
    *way, last = (int(part) if part.isdigit() else part for part in place.split("/"))
    for part in way:
        value = value[part]
    if new is DELETE:
        del value[last]
    else:
        value[last] = new(value[last]) if callable(new) else new


DELETE = object()


def seal(run: Path) -> None:
    """Checksums and names as they should be: of weights, states and chunks, then of policies, then of the run."""
    for policy in (run / "policy", run / "best"):
        described = policy / "policy.json"
        if described.is_file() and not described.is_symlink():
            try:
                value = read(described)
                if not isinstance(value.get("weights"), dict):
                    continue
                (weights,) = policy.glob("weights-*.safetensors")
                name = f"weights-{digest(weights)[:8]}.safetensors"
                weights.rename(policy / name)
                value["weights"] = {"name": name, "sha256": digest(policy / name)}
                write(described, value)
            except (ValueError, TypeError, KeyError, OSError, AttributeError, RecursionError):
                pass
    manifest: dict[str, Any] = read(run / "manifest.json")
    names = [path for part in (".", "policy", "best") for path in (run / part).iterdir() if path.is_file()]
    kept = [path for path in names if path.name == "config.json" or path.parent.name in ("policy", "best")]
    manifest["files"] = {str(path.relative_to(run)): digest(path) for path in kept}
    write(run / "manifest.json", manifest)


def sealed(change: Change, run: str = "run") -> Change:
    def change_and_seal(folder: Path) -> None:
        change(folder / run)
        seal(folder / run)

    return change_and_seal


def with_json(name: str, place: str, new: Any) -> Change:
    """A value in a JSON file of a run."""

    def change(run: Path) -> None:
        value = read(run / name)
        put(value, place, new)
        write(run / name, value)

    return change


def newest_commit(run: Path) -> Path:
    return max((run / "checkpoint").glob("checkpoint-*.json"))


def alone(run: Path) -> Path:
    """The newest commit of a run, which is its only one from now on."""
    newest = newest_commit(run)
    for path in (run / "checkpoint").glob("checkpoint-*.json"):
        if path != newest:
            path.unlink()
    return newest


def with_part(part: str, change: Callable[[bytes], bytes]) -> Change:
    """The structure, the tensors or the chunk of the only checkpoint, with its name and checksum."""

    def apply(run: Path) -> None:
        commit = alone(run)
        value = read(commit)
        entry = value["chunks"][0] if part == "chunk" else value[part]
        path = commit.parent / entry["name"]
        content = change(path.read_bytes())
        stem, _, rest = entry["name"].rpartition("-")
        entry["sha256"] = hashlib.sha256(content).hexdigest()
        entry["name"] = f"{stem}-{entry['sha256'][:8]}.{rest.partition('.')[2]}"
        (commit.parent / entry["name"]).write_bytes(content)
        write(commit, value)

    return apply


def with_state(place: str, new: Any) -> Change:
    """A value in the state of the only checkpoint."""

    def change(content: bytes) -> bytes:
        value = json.loads(content)
        put(value["state"], place, new)
        return json.dumps(value).encode()

    return with_part("structure", change)


def tensors_of(content: bytes) -> tuple[dict[str, Any], bytes]:
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def of_tensors(header: dict[str, Any], data: bytes) -> bytes:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def sparse(path: Path, size: int) -> None:
    """A file of so many zeros, of which none is on the disk."""
    path.unlink(missing_ok=True)
    with path.open("wb") as file:
        file.truncate(size)


def instead(make: Callable[[Path], Any]) -> Change:
    """Something else in the place of a file or folder."""

    def change(path: Path) -> None:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
        make(path)

    return change


# ---------------------------------------------------------------------------------------------------------- the corpus

KINDS: dict[str, Callable[[Path], Any]] = {
    "fifo": os.mkfifo,
    "link to a device": lambda path: path.symlink_to("/dev/zero"),
    "link out": lambda path: path.symlink_to(path.parents[2] / SECRET),
    "folder": lambda path: path.mkdir(),
    "huge": lambda path: sparse(path, 2**42),
}
EVAL, RESUME = ("eval", "run", "--episodes", "1"), ("resume", "dqn", "--env-steps", "512")
LIST = ("list", "runs", "--root", ".")


def _special_files() -> Iterator[Case]:
    for kind, make in KINDS.items():
        for name in ("config.json", "manifest.json", "policy/policy.json"):
            for verb in (EVAL, LIST):
                codes = (0,) if verb == LIST else (1, 2)
                yield Case(
                    f"{kind} at {name} for {verb[0]}",
                    "not a file",
                    verb,
                    lambda f, n=name, m=make: instead(m)(f / "run" / n),
                    codes,
                )
        for name in ("metrics.jsonl", "eval.jsonl", "timing.jsonl"):
            codes = (0, 1) if kind in ("folder", "huge") else (1,)
            yield Case(
                f"{kind} at {name}", "not a file", RESUME, lambda f, n=name, m=make: instead(m)(f / "dqn" / n), codes
            )
        yield Case(
            f"{kind} for a policy.npz", "not a file", ("eval", "sent.npz"), lambda f, m=make: instead(m)(f / "sent.npz")
        )
        yield Case(
            f"{kind} for a policy.onnx",
            "not a file",
            ("eval", "sent.onnx"),
            lambda f, m=make: instead(m)(f / "sent.onnx"),
        )
        yield Case(
            f"{kind} for an experiment",
            "not a file",
            ("bench", "sent.toml"),
            lambda f, m=make: instead(m)(f / "sent.toml"),
        )
        yield Case(
            f"{kind} for the data",
            "not a file",
            ("pretrain", "bc", "data"),
            lambda f, m=make: instead(m)(f / "data/data/main_data.hdf5"),
        )
        yield Case(
            f"{kind} for the metadata",
            "not a file",
            ("pretrain", "bc", "data"),
            lambda f, m=make: instead(m)(f / "data/data/metadata.json"),
        )
    for part in ("policy", "best", "checkpoint", "hparams", "seed-3"):
        for verb in (("resume", "run", "--env-steps", "512"), ("eval", "run")):

            def link(folder: Path, part: str = part) -> None:
                target = folder / "dqn" / part
                shutil.rmtree(folder / "run" / part)
                (folder / "run" / part).symlink_to(target)

            yield Case(f"{part} is a link to that of another run, {verb[0]}", "a link", verb, link)


BROKEN_JSON = {
    "empty": b"",
    "cut off": b'{"format": 1, "x',
    "binary": bytes(range(256)),
    "nested deeply": b"[" * 200_000,
    "a list": b"[1]",
    "of another format": b'{"format": 99}',
    "without a format": b"{}",
    "of an infinite number": b'{"format": 1, "x": 1e999}',
    "of a number with 100 000 digits": b'{"format": 1, "x": ' + b"9" * 100_000 + b"}",
}


def _json_files() -> Iterator[Case]:
    for what, content in BROKEN_JSON.items():
        for name in ("config.json", "manifest.json", "policy/policy.json"):
            yield Case(
                f"{name} is {what}", "not our JSON", EVAL,
                lambda f, n=name, c=content: (f / "run" / n).write_bytes(c) and (n == "manifest.json" or seal(f / "run")),
            )  # fmt: skip
        yield Case(
            f"the commit is {what}",
            "not our JSON",
            RESUME,
            lambda f, c=content: alone(f / "dqn").write_bytes(c) and None,
        )
        yield Case(
            f"the structure is {what}",
            "not our JSON",
            RESUME,
            lambda f, c=content: with_part("structure", lambda old: c)(f / "dqn"),
        )


CONFIG: list[tuple[str, Any]] = [
    *((place, DELETE) for place in ("agent", "env", "run", "settings", "origins", "command")),
    *((place, 7) for place in ("agent", "env", "run", "settings", "origins", "not_in_force", "sources")),
    *((place, None) for place in ("agent", "env", "run")),
    ("unit", "weeks"),
    ("agent", "planted:Agent"),
    ("env/env_id", "planted:Env"),
    ("env/env_id", 7),
    ("env/kwargs", [1]),
    ("env/wrappers", [{"name": "planted:Wrapper", "args": {}}]),
    ("env/wrappers", 7),
    ("settings/network", "planted:body"),
    ("run/seeds", 10**9),
    ("run/seeds", 0),
    ("run/seeds", "2"),
    ("run/seed", -1),
    ("run/seed", 2**70),
    ("run/num_envs", 10**9),
    ("run/env_steps", -5),
    ("run/env_steps", 10**20),
    ("run/log_every", 0),
    ("run/vector", "cloud"),
    ("run/unknown_setting", 1),
    ("settings/hidden", [10**6, 10**6]),
    ("settings/hidden", [[1]]),
    ("settings/hidden", [4] * 100_000),
    ("settings/replay_capacity", 10**15),
    ("settings/batch_size", 10**12),
    ("settings/n_step", 10**12),
    ("settings/learning_rate", "fast"),
    ("settings/gamma", 7.0),
]


def _values_of_config() -> Iterator[Case]:
    for place, new in CONFIG:
        shown = "deleted" if new is DELETE else str(new)[:40]
        yield Case(
            f"config: {place} is {shown}",
            "a setting that cannot be",
            RESUME,
            sealed(with_json("config.json", place, new), "dqn"),
        )
    for place, new in [
        ("run/seeds", 10**9),
        ("run", 7),
        ("env", 7),
        ("agent", ["x"]),
        ("unit", 7),
        ("env/env_id", "\x1b[2J"),
    ]:
        yield Case(
            f"config for list: {place} is {str(new)[:30]!r}",
            "a setting that cannot be",
            LIST,
            sealed(with_json("config.json", place, new)),
            (0,),
        )


POLICY: list[tuple[str, Any]] = [
    *((place, DELETE) for place in ("spec", "seeds", "weights", "spec/network", "spec/head", "spec/obs_space", "extra/env")),
    *((place, 7) for place in ("spec", "seeds", "extra", "spec/network", "spec/head", "spec/obs_space", "spec/preprocess")),
    *((place, None) for place in ("spec/action_space", "spec/network/layers", "spec/network/layers/0")),
    ("seeds", list(range(100_000))),
    ("seeds", [3, 3]),
    ("seeds", ["a"]),
    ("seeds", [3, -4]),
    ("seeds", [2**200, 1]),
    ("spec/network/layers/0/kind", "planted:Layer"),
    ("spec/network/layers/0/kind", "no_such_layer"),
    ("spec/network/layers/0/kind", 7),
    ("spec/network/layers/0/in_features", 10**12),
    ("spec/network/layers/0/out_features", 10**9),
    ("spec/network/layers/0/in_features", -4),
    ("spec/network/layers/0/in_features", "4"),
    ("spec/network/layers/0/gain", "1e999"),
    ("spec/network/layers/0/unknown", 1),
    ("spec/network/layers", lambda old: old * 10_000),
    ("spec/network/layers", []),
    ("spec/head/kind", "planted:Head"),
    ("spec/head/kind", "q_of_another_world"),
    ("spec/head", {"kind": "quantile", "quantiles": 10**10}),
    ("spec/obs_space/shape", [10**5, 10**5]),
    ("spec/obs_space/shape", [-4]),
    ("spec/obs_space/shape", "4"),
    ("spec/obs_space/kind", "box_of_pandora"),
    ("spec/obs_space/dtype", "object"),
    ("spec/obs_space/dtype", "O8,O8"),
    ("spec/obs_space/low", [0.0]),
    ("spec/action_space/n", 10**11),
    ("spec/action_space/n", -2),
    ("spec/action_space/n", 2.5),
    ("spec/action_space/start", 10**30),
    ("spec/preprocess/scaling", "planted:Scaling"),
    ("spec/preprocess", {"scaling": "fixed", "scale": [10**400]}),
    ("extra/env/env_id", "planted:Env"),
    ("extra/env/env_id", "NoSuchEnv-v0\x1b[2J\x07"),
    ("extra/env/max_episode_steps", -1),
    ("extra/env", "CartPole-v1"),
    ("extra/agent", ["x"]),
    ("extra/parent", {"folder": "/etc", "weights_sha256": "x"}),
]  # fmt: skip


def _values_of_policies() -> Iterator[Case]:
    for place, new in POLICY:
        shown = "deleted" if new is DELETE else "a function" if callable(new) else str(new)[:40]
        codes = (0, 1, 2) if place == "extra/agent" else (1, 2)
        yield Case(
            f"policy: {place} is {shown!r}",
            "a policy that cannot be",
            EVAL,
            sealed(with_json("policy/policy.json", place, new)),
            codes,
        )
    for name in (
        "../../outside",
        "/etc/passwd",
        "weights-00000000.safetensors",
        "",
        7,
        None,
        "weights-0123abcd.safetensors/../x",
    ):

        def named(run: Path, name: Any = name) -> None:
            value = read(run / "policy/policy.json")
            value["weights"] = {"name": name, "sha256": "0" * 64}
            write(run / "policy/policy.json", value)
            manifest = read(run / "manifest.json")
            manifest["files"]["policy/policy.json"] = digest(run / "policy/policy.json")
            write(run / "manifest.json", manifest)

        yield Case(f"weights are named {name!r}", "a file outside", EVAL, lambda f, n=named: n(f / "run"))


def with_weights(change: Callable[[bytes], bytes]) -> Change:
    def apply(run: Path) -> None:
        (weights,) = (run / "policy").glob("weights-*.safetensors")
        weights.write_bytes(change(weights.read_bytes()))

    return sealed(apply)


def changed_header(change: Callable[[dict[str, Any]], None]) -> Callable[[bytes], bytes]:
    def apply(content: bytes) -> bytes:
        header, data = tensors_of(content)
        change(header)
        return of_tensors(header, data)

    return apply


def number_in_a_float(value: float) -> Callable[[bytes], bytes]:
    """The first number of a tensor of weights, or of the first tensor of floats."""

    def apply(content: bytes) -> bytes:
        header, data = tensors_of(content)
        floats = [name for name, entry in header.items() if name != "__metadata__" and entry["dtype"] == "F32"]
        name = next((name for name in floats if "agent/policy" in name), floats[0])
        at = header[name]["data_offsets"][0]
        return of_tensors(header, data[:at] + struct.pack("<f", value) + data[at + 4 :])

    return apply


def first(header: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = header[min(name for name in header if name != "__metadata__")]
    return found


WEIGHTS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut off": lambda content: content[:-5],
    "longer": lambda content: content + b"\0" * 8,
    "a header of 2^63 bytes": lambda content: struct.pack("<Q", 2**63) + content[8:],
    "a header of 90 MB": lambda content: struct.pack("<Q", 90 * 10**6) + content[8:],
    "a pickle": lambda content: b"\x80\x04\x95\x0e\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94.",
    "a zip": lambda content: b"PK\x03\x04" + content,
    "a negative shape": changed_header(lambda header: first(header).update(shape=[-4, 4])),
    "a huge shape": changed_header(lambda header: first(header).update(shape=[2**40, 2**40])),
    "another dtype": changed_header(lambda header: first(header).update(dtype="I16")),
    "an unknown dtype": changed_header(lambda header: first(header).update(dtype="PICKLE")),
    "offsets out of the file": changed_header(lambda header: first(header).update(data_offsets=[0, 2**40])),
    "offsets that overlap": changed_header(lambda header: first(header).update(data_offsets=[4, 8])),
    "a tensor of another name": changed_header(lambda header: header.update({"other": header.pop(min(header))})),
    "no tensor": lambda content: of_tensors({}, b""),
    "NaN": number_in_a_float(float("nan")),
    "infinity": number_in_a_float(float("inf")),
}


def _weights() -> Iterator[Case]:
    for what, change in WEIGHTS.items():
        yield Case(f"weights: {what}", "not the weights of the spec", EVAL, with_weights(change))
    for what, change in WEIGHTS.items():
        yield Case(
            f"tensors of a checkpoint: {what}",
            "not a state",
            RESUME,
            lambda f, c=change: with_part("tensors", c)(f / "dqn"),
            (0, 1, 2) if what == "longer" else (1, 2),
        )
        yield Case(f"chunk: {what}", "not rows", RESUME, lambda f, c=change: with_part("chunk", c)(f / "dqn"))


STATE: list[tuple[str, Any]] = [
    *((place, DELETE) for place in ("loop", "best", "storage", "loop/env_steps", "loop/agent", "loop/collector", "loop/sampler")),
    *((place, DELETE) for place in ("loop/agent/policy", "loop/agent/optimizer", "storage/rows_written", "loop/collector/env")),
    *((place, 7) for place in ("loop", "best", "storage", "loop/agent", "loop/collector", "loop/agent/policy", "loop/means")),
    *((place, 7) for place in ("loop/agent/optimizer", "loop/agent/exploration", "generators", "resumed_at", "loop/sampler")),
    *((place, None) for place in ("loop/agent", "loop/collector", "loop/agent/policy", "storage", "loop/env_steps")),
    ("loop/env_steps", -8),
    ("loop/env_steps", 3),
    ("loop/env_steps", 10**30),
    ("loop/env_steps", "256"),
    ("loop/env_steps", {"$float": "nan"}),
    ("loop/updates", -1),
    ("loop/updates", "many"),
    ("loop/judgement_due", 7),
    ("storage/rows_written", -1),
    ("storage/rows_written", 10**12),
    ("storage/rows_written", {"$float": "inf"}),
    ("storage/chunk_rows", 0),
    ("storage/chunk_rows", -5),
    ("storage/chunk_rows", 10**18),
    ("loop/agent/exploration/draw", -3),
    ("loop/agent/exploration/draw", "x"),
    ("loop/sampler/draws/draw", -1),
    ("loop/agent/policy", {"$unknown": 1}),
    ("loop/agent/policy", {"$torch": "no such tensor"}),
    ("loop/agent/policy", {"$torch": ["list"]}),
    ("loop/agent/policy", {"$torch": {"a": 1}}),
    ("loop/agent/policy", {"$tuple": 7}),
    ("loop/agent/policy", {"$items": [[1]]}),
    ("loop/agent/policy", {"$items": [[[1], 2]]}),
    ("loop/agent/policy", {"$items": 7}),
    ("loop/agent/policy", {"$float": "1e9999x"}),
    ("loop/agent/policy", {"$float": [1]}),
    ("loop/agent/policy", {"$torch": "a", "$numpy": "b"}),
    ("loop/agent/policy/network.0.weight", {"$float": "nan"}),
    ("loop/agent/policy/network.0.weight", {"$torch": "0/state/loop/means/0/sum"}),
    ("loop/agent/target_network/0.weight", {"$torch": "0/state/loop/means/0/sum"}),
    ("loop/agent/optimizer/state", []),
    ("loop/agent/optimizer/param_groups", []),
    ("loop/agent/optimizer/param_groups/0/lr", "fast"),
    ("loop/collector/obs", {"$torch": "0/state/loop/means/0/sum"}),
    ("loop/collector/returns", 7),
    ("loop/collector/env/restart", -1),
    ("loop/collector/env/vector_steps", "x"),
    ("loop/collector/env/envs", 7),
    ("loop/collector/env/envs/state/streams", []),
    ("loop/collector/env/envs/state/streams/0/bit_generator", "planted:Generator"),
    ("loop/collector/env/envs/state/streams/0/state/state", -1),
    ("generators/numpy/state/pos", 10**9),
    ("generators/numpy/state/pos", -1),
    ("generators/torch", 7),
    ("generators/random/words", 7),
    ("best/score", 7),
    ("best/weights", 7),
    ("demonstrations", 7),
]  # fmt: skip


def _checkpoints() -> Iterator[Case]:
    for place, new in STATE:
        shown = "deleted" if new is DELETE else str(new)[:40]
        # A run that trains without demonstrations reads none; envs whose state is refused begin fresh episodes.
        harmless = place in ("demonstrations", "loop/agent/optimizer/param_groups/0/lr") or place.startswith(
            "loop/collector/env/"
        )
        codes = (0, 1, 2) if harmless else (1, 2)
        yield Case(
            f"state: {place} is {shown!r}",
            "not a state of this run",
            RESUME,
            lambda f, p=place, n=new: with_state(p, n)(f / "dqn"),
            codes,
        )
    for place, new in [
        ("chunks", 7), ("chunks", [7]), ("chunks", [{}]), ("structure", 7), ("tensors", {"name": "../config.json", "sha256": "0"}),
        ("chunks/0/index", -1), ("chunks/0/index", "x"), ("chunks/0/complete", 7), ("chunks/0/name", "../../outside"),
        ("chunks/0/name", "chunk-000007-44893f9a.safetensors"), ("chunks/0/sha256", 7), ("chunks", lambda old: old * 1000), ("chunks", []),
    ]:  # fmt: skip

        def commit(folder: Path, place: str = place, new: Any = new) -> None:
            path = alone(folder / "dqn")
            value = read(path)
            put(value, place, new)
            write(path, value)

        yield Case(f"commit: {place} is {'longer' if callable(new) else str(new)[:60]}", "not a commit", RESUME, commit)
    for what in ("a commit of a number with 300 digits", "a state that is a FIFO"):

        def special(folder: Path, what: str = what) -> None:
            path = alone(folder / "dqn")
            if "300" in what:
                path.rename(path.with_name(f"checkpoint-{'9' * 200}.json"))
            else:
                instead(os.mkfifo)(path.parent / read(path)["structure"]["name"])

        yield Case(what, "not a checkpoint", RESUME, special, (0, 1, 2) if "300" in what else (1,))


LINES = {
    "not JSON": b'{"format": 1, "seeds": [3, 4]}\nx\n',
    "a list": b'{"format": 1, "seeds": [3, 4]}\n[1]\n',
    "without a clock": b'{"format": 1, "seeds": [3, 4]}\n{"loss": 1}\n',
    "with a clock of text": b'{"format": 1, "seeds": [3, 4]}\n{"env_steps": "now"}\n',
    "of infinity": b'{"format": 1, "seeds": [3, 4]}\n{"env_steps": 64, "loss": 1e999}\n',
    "nested": b'{"format": 1, "seeds": [3, 4]}\n' + b"[" * 100_000 + b"\n",
    "of another format": b'{"format": 2, "seeds": [3, 4]}\n',
    "no header": b"7\n",
}


def _logs() -> Iterator[Case]:
    for what, content in LINES.items():
        for name in ("metrics", "eval"):
            yield Case(
                f"{name}.jsonl is {what}", "not our rows", RESUME,
                lambda f, n=name, c=content: (f / "dqn" / f"{n}.jsonl").write_bytes(c) and None, (0, 1),
            )  # fmt: skip
            yield Case(
                f"{name}.jsonl is {what}, listed", "not our rows", LIST,
                lambda f, n=name, c=content: (f / "run" / f"{n}.jsonl").write_bytes(c) and None, (0,),
            )  # fmt: skip
    for what, content in {
        "status is a list": b"[]", "status is of text": b'{"format": 1, "status": 7, "at": {"a": "\\u001b"}}',
        "status is nested": b"[" * 100_000, "status is binary": bytes(range(256)),
    }.items():  # fmt: skip
        yield Case(
            what, "passed over", LIST, lambda f, c=content: (f / "run/status.json").write_bytes(c) and None, (0,)
        )
    for what, text in {
        "a header": "x,y\n",
        "a cell": "env_steps,seed,env,return,length,time\n1,2,3,x,5,6\n",
        "a row": "env_steps,seed,env,return,length,time\n1\n",
    }.items():
        yield Case(
            f"episodes.csv has another {what}", "not our episodes", ("resume", "run", "--env-steps", "512"),
            lambda f, t=text: (f / "run/episodes.csv").write_text(t) and None, (0, 1),
        )  # fmt: skip


def _manifests() -> Iterator[Case]:
    for what, files in {
        "a path out of the run": {"../outside": "0" * 64}, "an absolute path": {"/etc/passwd": "0" * 64}, "a checksum of 7": {"config.json": 7},
        "a short checksum": {"config.json": "ab"}, "a list": [], "a name of controls": {"\x1b[2J": "0" * 64}, "nothing": {},
    }.items():  # fmt: skip
        for kind in ("files", "pending"):

            def change(folder: Path, files: Any = files, kind: str = kind) -> None:
                value = read(folder / "run/manifest.json")
                value[kind] = files
                write(folder / "run/manifest.json", value)

            codes = (0,) if (kind, what) == ("pending", "nothing") else (1, 2)
            yield Case(f"manifest: {kind} has {what}", "not our manifest", EVAL, change, codes)


TOML = {
    "not TOML": "agent = ",
    "binary": "\x00\x01",
    "nested": "a = " + "[" * 100_000,
    "dotted": "a." * 50_000 + "b = 1",
    "of another format": "format = 9",
    "without an agent": "format = 1",
    "with an unknown key": 'format = 1\nagent = "ppo"\nenv = "CartPole-v1"\nsurprise = 1',
    "an agent of 7": 'format = 1\nagent = 7\nenv = "CartPole-v1"',
    "an env of 7": 'format = 1\nagent = "ppo"\nenv = 7',
    "wrappers of 7": 'format = 1\nagent = "ppo"\nenv = "CartPole-v1"\nwrapper = [7]',
    "settings of 7": 'format = 1\nagent = "ppo"\nenv = "CartPole-v1"\nsettings = 7',
    "10^9 seeds": 'format = 1\nagent = "ppo"\nenv = "CartPole-v1"\n[bench]\nseeds = 1000000000',
    "seeds of text": 'format = 1\nagent = "ppo"\nenv = "CartPole-v1"\n[bench]\nseeds = "two"',
    "10^12 units": 'format = 1\nagent = "ppo"\nenv = "CartPole-v1"\n[settings]\nhidden = [1000000, 1000000]',
    "10^15 rows": 'format = 1\nagent = "dqn"\nenv = "CartPole-v1"\n[settings]\nreplay_capacity = 1000000000000000',
    "10^9 envs": 'format = 1\nagent = "ppo"\nenv = "CartPole-v1"\n[run]\nnum_envs = 1000000000',
    "infinity": 'format = 1\nagent = "ppo"\nenv = "CartPole-v1"\n[settings]\ngamma = inf',
    "a claim of text": 'format = 1\nagent = "ppo"\nenv = "CartPole-v1"\n[[claim]]\nmeasure = "iqm"\nat_least = "much"',
    "a claim of a list": 'format = 1\nagent = "ppo"\nenv = "CartPole-v1"\nclaim = 7',
    "an agent of others": 'format = 1\nagent = "planted:Agent"\nenv = "CartPole-v1"',
    "an env of others": 'format = 1\nagent = "ppo"\nenv = "planted:Env-v0"',
    "a wrapper of others": 'format = 1\nagent = "ppo"\nenv = "CartPole-v1"\nwrapper = ["planted:Wrapper"]',
    "a network of others": 'format = 1\nagent = "ppo"\nenv = "CartPole-v1"\n[settings]\nnetwork = "planted:body"',
}


def _experiments() -> Iterator[Case]:
    for what, text in TOML.items():
        yield Case(
            f"experiment: {what}",
            "not an experiment",
            ("bench", "sent.toml"),
            lambda f, t=text: (f / "sent.toml").write_text(t) and None,
        )
        yield Case(
            f"experiment for train: {what}", "not an experiment",
            ("train", "ppo", "CartPole-v1", "--experiment", "sent.toml", "--env-steps", "16", "--num-envs", "2", "--final-eval-episodes", "1"),
            lambda f, t=text: (f / "sent.toml").write_text(t) and None,
            (0, 1, 2) if "seeds" in what else (1, 2),
        )  # fmt: skip


def arrays_of(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "policy.npz") as file:
        return {name: file[name] for name in file.files}


def with_arrays(change: Callable[[dict[str, np.ndarray]], None]) -> Change:
    def apply(folder: Path) -> None:
        arrays = arrays_of(folder)
        change(arrays)
        np.savez_compressed(folder / "sent.npz", **arrays)  # type: ignore[arg-type]

    return apply


def with_description(place: str, new: Any) -> Change:
    def change(arrays: dict[str, np.ndarray]) -> None:
        value = json.loads(arrays["description"].tobytes())
        put(value, place, new)
        arrays["description"] = np.frombuffer(json.dumps(value).encode(), np.uint8)

    return with_arrays(change)


def npy(header: str, data: bytes = b"") -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def with_member(name: str, content: bytes) -> Change:
    def apply(folder: Path) -> None:
        shutil.copy(folder / "policy.npz", folder / "sent.npz")
        with zipfile.ZipFile(folder / "sent.npz", "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(name, content)

    return apply


def bomb(folder: Path) -> None:
    with (
        zipfile.ZipFile(folder / "sent.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("w.npy", "w", force_zip64=True) as part,
    ):
        part.write(npy("{'descr': '<f4', 'fortran_order': False, 'shape': (75000000,), }"))
        for _ in range(300):
            part.write(bytes(10**6))


def many_members(folder: Path) -> None:
    with zipfile.ZipFile(folder / "sent.npz", "w") as archive:
        for number in range(40_000):
            archive.writestr(f"{number}.npy", b"")


def first_constant(change: Callable[[np.ndarray], Any]) -> Change:
    def apply(arrays: dict[str, np.ndarray]) -> None:
        name = next(name for name, array in arrays.items() if name != "description" and array.dtype == np.float32)
        arrays[name] = np.array(change(arrays[name].copy()), np.float32)

    return with_arrays(apply)


def filled(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array.reshape(-1)[0] = value
        return array

    return change


NPZ: dict[str, Change] = {
    "empty": lambda f: (f / "sent.npz").write_bytes(b"") and None,
    "cut off": lambda f: (f / "sent.npz").write_bytes((f / "policy.npz").read_bytes()[:-40]) and None,
    "text": lambda f: (f / "sent.npz").write_text("hello") and None,
    "a bomb": bomb,
    "of 40 000 parts": many_members,
    "with objects": with_member(
        "o.npy", npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", b"\x80\x04N.")
    ),
    "with a huge shape": with_member("o.npy", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (10**12,), }")),
    "with a declared shape": with_member(
        "o.npy", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }")
    ),
    "with a negative shape": with_member("o.npy", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }")),
    "with code in a header": with_member("o.npy", npy("__import__('os').system('touch ran')")),
    "with a long header": with_member(
        "o.npy", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }" + " " * 60_000)
    ),
    "with texts": with_member("o.npy", npy("{'descr': '<U4', 'fortran_order': False, 'shape': (1,), }", b"\0" * 16)),
    "with another version": with_member("o.npy", b"\x93NUMPY\x09\x00" + bytes(100)),
    "with a path": with_member(
        "../../outside.npy", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (), }", b"\0" * 4)
    ),
    "with a text file": with_member("readme.txt", b"hello"),
    "with two of a name": lambda f: (
        [with_member("d.npy", npy("{'descr': '|u1', 'fortran_order': False, 'shape': (0,), }"))(f)] * 2 and double(f)
    ),
    "without a description": with_arrays(lambda arrays: arrays.__delitem__("description")),
    "with a description that is not JSON": with_arrays(lambda arrays: arrays.update(description=np.zeros(9, np.uint8))),
    "with a nested description": with_arrays(
        lambda arrays: arrays.update(description=np.frombuffer(b"[" * 100_000, np.uint8))
    ),
    "of another format": with_description("metadata/format", 9),
    "without metadata": with_description("metadata", DELETE),
    "with metadata of 7": with_description("metadata", 7),
    "of an env of others": with_description("metadata/env/env_id", "planted:Env"),
    "without an env": with_description("metadata/env", None),
    "with an env of 7": with_description("metadata/env", 7),
    "of a space of 10^10": with_description("metadata/obs_space/shape", [10**5, 10**5]),
    "with actions of objects": with_description("metadata/outputs/action/dtype", "object"),
    "with a shape of text": with_description("metadata/outputs/action/shape", "ab"),
    "with an operation of others": with_description("operations/0/kind", "__import__"),
    "with no operation": with_description("operations", []),
    "with operations of 7": with_description("operations", 7),
    "that doubles itself": with_description("operations", lambda old: doubling(old)),
    "with an unknown input": with_description("operations/0/inputs", ["nobody"]),
    "with another output": with_description("operations/0/output", "nobody"),
    "of NaN": first_constant(filled(float("nan"))),
    "of infinity": first_constant(filled(float("inf"))),
    "with constants of another shape": first_constant(lambda array: array.reshape(-1)[:1]),
}


def double(folder: Path) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(folder / "sent.npz", "a") as archive:
            archive.writestr("description.npy", npy("{'descr': '|u1', 'fortran_order': False, 'shape': (0,), }"))


def doubling(operations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The observation, joined to itself 40 times."""
    grown = [{"kind": "concat", "inputs": ["obs", "obs"], "output": "obs", "settings": {}}] * 40
    return [*grown, *operations]


def _npz_files() -> Iterator[Case]:
    for what, change in NPZ.items():
        codes = (0,) if what == "with a path" else (1, 2)  # nothing is unpacked to the disk: it is a name as any other
        yield Case(f"npz {what}", "not a policy", ("eval", "sent.npz", "--episodes", "1"), change, codes)


def with_model(change: Callable[[Any, Any], Any]) -> Change:
    def apply(folder: Path) -> None:
        import onnx

        model = onnx.load(folder / "policy.onnx")
        change(model, onnx.helper)
        (folder / "sent.onnx").write_bytes(model.SerializeToString())

    return apply


def loop(model: Any, helper: Any) -> None:
    info = helper.make_tensor_value_info
    condition, count = info("c", 9, []), info("i", 7, [])
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"])], "body", [count, condition], [info("d", 9, [])]
    )
    model.graph.initializer.append(helper.make_tensor("yes", 9, [], [True]))
    model.graph.node.insert(0, helper.make_node("Loop", ["", "yes"], [], body=body))


def huge_constant(model: Any, helper: Any) -> None:
    model.graph.initializer.append(helper.make_tensor("shape", 7, [1], [10**10]))
    model.graph.node.append(helper.make_node("ConstantOfShape", ["shape"], ["large"]))
    model.graph.output.append(helper.make_tensor_value_info("large", 1, [10**10]))


def outside_data(model: Any, helper: Any) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = 1
    tensor.external_data.add(key="location", value="../outside")


def metadata(change: Callable[[dict[str, Any]], Any]) -> Callable[[Any, Any], Any]:
    def apply(model: Any, helper: Any) -> None:
        for prop in model.metadata_props:
            if prop.key == "rlab":
                value = json.loads(prop.value)
                prop.value = json.dumps(change(value) or value)

    return apply


ONNX: dict[str, Change] = {
    "empty": lambda f: (f / "sent.onnx").write_bytes(b"") and None,
    "text": lambda f: (f / "sent.onnx").write_text("hello") and None,
    "cut off": lambda f: (f / "sent.onnx").write_bytes((f / "policy.onnx").read_bytes()[:-40]) and None,
    "nested": lambda f: (f / "sent.onnx").write_bytes(nested_message()) and None,
    "that loops": with_model(loop),
    "that is huge": with_model(huge_constant),
    "with data outside": with_model(outside_data),
    "of NaN": with_model(lambda m, h: m.graph.initializer.append(h.make_tensor("nan", 1, [1], [float("nan")]))),
    "of random numbers": with_model(
        lambda m, h: m.graph.node.append(h.make_node("RandomUniform", [], ["r"], shape=[1]))
    ),
    "of operations of others": with_model(
        lambda m, h: m.graph.node.append(h.make_node("Own", ["obs"], ["o"], domain="own"))
    ),
    "without metadata": with_model(lambda m, h: m.ClearField("metadata_props")),
    "with metadata of a list": with_model(metadata(lambda value: [1])),
    "without an env": with_model(metadata(lambda value: value.update(env=None))),
    "of an env of others": with_model(metadata(lambda value: value["env"].update(env_id="planted:Env"))),
    "of another format": with_model(metadata(lambda value: value.update(format=9))),
    "of another space": with_model(metadata(lambda value: value["obs_space"].update(shape=[9]))),
    "of a huge space": with_model(metadata(lambda value: value["obs_space"].update(shape=[10**6, 10**6]))),
    "of actions of objects": with_model(metadata(lambda value: value["outputs"]["action"].update(dtype="O"))),
    "without outputs": with_model(lambda m, h: m.graph.ClearField("output")),
    "without nodes": with_model(lambda m, h: m.graph.ClearField("node")),
    "of another name": with_model(lambda m, h: setattr(m.graph.input[0], "name", "other")),
}


def nested_message() -> bytes:
    """A graph in a node in a graph ..., each a message of the other."""
    content = b""
    for number in range(1000):
        kind = (0x3A if number == 999 else 0x32, 0x2A, 0x0A)[0 if number == 999 else number % 3]
        content = bytes([kind]) + varint(len(content)) + content
    return content


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def _onnx_files() -> Iterator[Case]:
    for what, change in ONNX.items():
        yield Case(f"onnx {what}", "not a policy", ("eval", "sent.onnx", "--episodes", "1"), change)


def _other_exports() -> Iterator[Case]:
    for suffix in ("h", "pt2"):
        path = f"sent.{suffix}"
        yield Case(
            f"a {suffix} without trust",
            "it can run code",
            ("eval", path),
            lambda f, p=path: (f / p).write_bytes(b"int x;") and None,
        )
        for what, content in {"text": b"hello", "empty": b"", "a zip": b"PK\x05\x06" + bytes(18)}.items():
            yield Case(
                f"a {suffix} of {what} with trust", "not a policy", ("eval", path, "--trust"),
                lambda f, p=path, c=content: (f / p).write_bytes(c) and None,
            )  # fmt: skip


def with_dataset(change: Callable[[Any], None]) -> Change:
    def apply(folder: Path) -> None:
        import h5py

        with h5py.File(folder / "data/data/main_data.hdf5", "r+") as file:
            change(file)

    return apply


def replaced(name: str, make: Callable[[Any, str], None]) -> Change:
    def change(file: Any) -> None:
        group, _, last = name.rpartition("/")
        del file[name]
        make(file[group] if group else file, last)

    return with_dataset(change)


def with_facts(place: str, new: Any) -> Change:
    def apply(folder: Path) -> None:
        path = folder / "data/data/metadata.json"
        value = read(path)
        put(value, place, new)
        path.write_text(json.dumps(value))

    return apply


def external_link(group: Any, name: str) -> None:
    import h5py

    group[name] = h5py.ExternalLink("../../../outside.hdf5", "/x")


def external_storage(group: Any, name: str) -> None:
    group.create_dataset(name, shape=(20,), dtype="f4", external=[("../../../outside", 0, 80)])


def huge_dataset(group: Any, name: str) -> None:
    group.create_dataset(name, shape=(10**10,), dtype="f4", chunks=(1024,), fillvalue=1.0)


DATA: dict[str, Change] = {
    "of text": lambda f: (f / "data/data/main_data.hdf5").write_text("hello") and None,
    "cut off": lambda f: (f / "data/data/main_data.hdf5").write_bytes((f / "data/data/main_data.hdf5").read_bytes()[:3000]) and None,
    "with rewards by a link": replaced("episode_0/rewards", external_link),
    "with rewards in another file": replaced("episode_0/rewards", external_storage),
    "with 10^10 rewards": replaced("episode_0/rewards", huge_dataset),
    "with 10^10 observations": replaced("episode_0/observations", huge_dataset),
    "with an episode by a link": replaced("episode_0", external_link),
    "with rewards of text": replaced("episode_0/rewards", lambda g, n: g.create_dataset(n, data=[b"x"] * 20)),
    "with rewards of NaN": replaced("episode_0/rewards", lambda g, n: g.create_dataset(n, data=np.full(20, np.nan, "f4"))),
    "with observations of infinity": replaced("episode_0/observations", lambda g, n: g.create_dataset(n, data=np.full((21, 4), np.inf, "f4"))),
    "without actions": replaced("episode_0/actions", lambda g, n: None),
    "with actions of a group": replaced("episode_0/actions", lambda g, n: g.create_group(n)),
    "with actions out of range": replaced("episode_0/actions", lambda g, n: g.create_dataset(n, data=np.full(20, 99))),
    "with 10^9 episodes": with_facts("total_episodes", 10**9),
    "with -1 episodes": with_facts("total_episodes", -1),
    "with episodes of text": with_facts("total_episodes", "two"),
    "in a format of others": with_facts("data_format", "planted"),
    "without a space": with_facts("observation_space", DELETE),
    "with a space of 7": with_facts("observation_space", 7),
    "with a space of others": with_facts("observation_space", '{"type": "Planted"}'),
    "with a huge space": with_facts("observation_space", '{"type": "Box", "dtype": "float32", "shape": [1000000, 1000000], "low": -1, "high": 1}'),
    "with a nested space": with_facts("observation_space", "[" * 100_000),
    "with a space of objects": with_facts("action_space", '{"type": "Discrete", "dtype": "object", "start": 0, "n": "x"}'),
    "of an env of others": with_facts("rlab/env/env_id", "planted:Env"),
    "with facts of 7": with_facts("rlab", 7),
}  # fmt: skip


def _datasets() -> Iterator[Case]:
    for what, change in DATA.items():
        yield Case(
            f"data {what}",
            "not a dataset",
            ("pretrain", "bc", "data", "--updates", "2", "--final-eval-episodes", "1"),
            change,
        )


def flipped(content: bytes, bit: int) -> bytes:
    """The content with one bit turned over."""
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)

"""Policy folders: saved, replaced, copied, damaged."""

import json
import os
import shutil

import numpy as np
import pytest
import torch

from rlab.errors import RlabError
from rlab.runs import files
from rlab.runs.folder import RunFolder, read_manifest
from rlab.runs.policies import load_policy, save_policy
from rlab.runs.status import write_status
from rlab.runs.tensors import tensors_from_bytes, tensors_to_bytes


def weights_of(folder):
    (path,) = folder.glob("weights-*.safetensors")
    return path


def first_parameter(policy):
    return next(policy.parameters()).flatten()[0].item()


def rewrite(folder, change):
    """Change policy.json by hand, as somebody who makes a hostile folder would."""
    data = json.loads((folder / "policy.json").read_text())
    change(data)
    (folder / "policy.json").write_text(json.dumps(data))


def replace_weights(folder, change):
    """Put other weights into a policy folder, with names and checksums that are right."""
    tensors = tensors_from_bytes(weights_of(folder).read_bytes(), folder)
    change(tensors)
    weights_of(folder).unlink()
    data = tensors_to_bytes(tensors)
    name = f"weights-{files.sha256(data)[:8]}.safetensors"
    (folder / name).write_bytes(data)
    rewrite(folder, lambda policy: policy.update(weights={"name": name, "sha256": files.sha256(data)}))


def test_a_policy_comes_back_from_the_run_from_its_folder_and_from_a_copy(run, make_policy, tmp_path):
    policy = make_policy(0.25)
    policy.preprocess.observe(torch.randn(2, 8, 4, generator=torch.Generator().manual_seed(0)), torch.ones(2, 8).bool())
    save_policy(run.policy, policy, {"agent": "dqn", "env_steps": 500})
    shutil.copytree(run.policy, tmp_path / "shared")
    obs = np.random.default_rng(0).normal(size=(2, 50, 4)).astype(np.float32)
    for path in (run.path, run.policy, str(tmp_path / "shared")):
        loaded = load_policy(path)
        assert loaded.extra == {"agent": "dqn", "env_steps": 500}
        assert loaded.policy.seeds == (3, 4)
        assert loaded.policy.spec == policy.spec
        assert loaded.policy.state_dict().keys() == policy.state_dict().keys()
        for name, tensor in policy.state_dict().items():
            assert torch.equal(loaded.policy.state_dict()[name], tensor), name
        assert (loaded.policy(obs) == policy(obs)).all()


def test_the_folder_holds_the_policy_and_nothing_else_and_the_manifest_knows_it(run, make_policy):
    save_policy(run.best, make_policy(0.1), {})
    save_policy(run.policy, make_policy(0.2), {})
    (run.policy / ".tmp-123-abc").write_bytes(b"left by a killed writer")
    save_policy(run.policy, make_policy(0.3), {})
    weights = weights_of(run.policy).name
    assert sorted(os.listdir(run.policy)) == ["policy.json", weights]
    manifest = json.loads((run.path / "manifest.json").read_text())
    assert manifest == {
        "format": 1,
        "files": {
            str(path.relative_to(run.path)): files.sha256(path.read_bytes())
            for path in (run.path / "config.json", *run.policy.iterdir(), *run.best.iterdir())
        },
    }
    assert first_parameter(load_policy(run.best).policy) == pytest.approx(0.1)


def test_saving_the_same_policy_again_changes_no_byte(run, make_policy):
    save_policy(run.policy, make_policy(0.2), {"env_steps": 1})
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    save_policy(run.policy, make_policy(0.2), {"env_steps": 1})
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("part", ["policy", "best"])
def test_death_at_any_instant_of_a_replacement_leaves_the_old_policy_or_the_new_one(
    run, make_policy, every_death, part
):
    old, new, third = make_policy(1.0), make_policy(2.0), make_policy(3.0)
    save_policy(run.path / part, old, {"n": 1})
    seen = set()
    for copy, survived in every_death(run.path, lambda copy: save_policy(copy / part, new, {"n": 2})):
        RunFolder.open(copy)
        loaded = load_policy(copy / part)
        assert first_parameter(loaded.policy) == loaded.extra["n"]  # never the weights of one with the words of other
        assert not survived or loaded.extra == {"n": 2}
        seen.add(loaded.extra["n"])
        shutil.copytree(copy / part, copy / "alone")
        assert load_policy(copy / "alone").extra == loaded.extra  # and so for a copy without the manifest
        save_policy(copy / part, third, {"n": 3})  # the next save recovers
        assert load_policy(copy / part).extra == {"n": 3}
        assert len(os.listdir(copy / part)) == 2
        assert not read_manifest(copy)["pending"]
    assert seen == {1, 2}


def test_two_deaths_in_a_row_still_leave_a_policy_that_loads(run, make_policy, every_death):
    policies = {n: make_policy(float(n)) for n in (1, 2, 3)}
    save_policy(run.policy, policies[1], {"n": 1})
    firsts = every_death(run.path, lambda copy: save_policy(copy / "policy", policies[2], {"n": 2}))
    for first, _ in list(firsts)[::4]:
        n = load_policy(first).extra["n"]
        for second, survived in every_death(first, lambda copy: save_policy(copy / "policy", policies[3], {"n": 3})):
            loaded = load_policy(second)
            assert loaded.extra["n"] in ((3,) if survived else (n, 3))
            assert first_parameter(loaded.policy) == loaded.extra["n"]


def test_death_while_the_first_policy_is_saved_leaves_none_or_a_whole_one(run, make_policy, every_death):
    for copy, survived in every_death(run.path, lambda copy: save_policy(copy / "policy", make_policy(1.0), {})):
        if (copy / "policy" / "policy.json").exists():
            load_policy(copy)
        else:
            assert not survived
            with pytest.raises(RlabError, match="has no policy yet: the run has saved none"):
                load_policy(copy)


def test_a_run_that_failed_before_it_saved_a_policy_says_why(run):
    write_status(run, "failed", "no member is left: every one was dropped")
    with pytest.raises(RlabError, match="has no policy: the run failed before it saved one: no member is left"):
        load_policy(run.path)


def _cut_weights(folder):
    path = weights_of(folder)
    path.write_bytes(path.read_bytes()[:-10])


def _cut_weights_and_their_checksum(folder):
    _cut_weights(folder)
    checksum = files.sha256(weights_of(folder).read_bytes())
    rewrite(folder, lambda data: data["weights"].update(sha256=checksum))


def _flip_a_bit(folder):
    path = weights_of(folder)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def _drop(tensors):
    del tensors["network.0.weight"]


DAMAGES = {
    "weights gone": (lambda f: weights_of(f).unlink(), "weights-[0-9a-f]{8}.safetensors is missing"),
    "weights cut": (_cut_weights, "safetensors has a different SHA-256 than"),
    "one bit flipped": (_flip_a_bit, "safetensors has a different SHA-256 than"),
    "weights cut, checksum too": (_cut_weights_and_their_checksum, "is not a complete safetensors file"),
    "policy.json gone": (lambda f: (f / "policy.json").unlink(), "is neither a run folder .* nor a policy folder"),
    "policy.json cut": (lambda f: (f / "policy.json").write_text('{"format": 1'), "policy.json is not complete JSON"),
    "newer format": (lambda f: rewrite(f, lambda d: d.update(format=2)), "has format 2; this rlab reads format 1"),
    "points outside": (
        lambda f: rewrite(f, lambda d: d["weights"].update(name="../../secret")),
        "names '../../secret' where a file like",
    ),
    "weights no object": (lambda f: rewrite(f, lambda d: d.update(weights=[])), "names None where a file like"),
    "no seeds": (lambda f: rewrite(f, lambda d: d.update(seeds=[])), "'seeds' must be a list of training seeds"),
    "odd seeds": (lambda f: rewrite(f, lambda d: d.update(seeds=[0, "1"])), "'seeds' must be a list of training seeds"),
    "twin seeds": (lambda f: rewrite(f, lambda d: d.update(seeds=[3, 3])), "names a training seed twice"),
    "no spec": (lambda f: rewrite(f, lambda d: d.pop("spec")), "nothing can be built from its spec"),
    "spec no object": (lambda f: rewrite(f, lambda d: d.update(spec=[])), "nothing can be built from its spec"),
    "other layer": (
        lambda f: rewrite(f, lambda d: d["spec"]["network"]["layers"][0].update(kind="lineal")),
        "policy.json: unknown kind of layer 'lineal'. Did you mean 'linear'?",
    ),
    "one seed more": (
        lambda f: rewrite(f, lambda d: d.update(seeds=[3, 4, 5])),
        "'seeds' names 3 members, and the weights are of 2 at most",
    ),
    "a tensor missing": (
        lambda f: replace_weights(f, _drop),
        r"lacks the tensor 'network.0.weight' \[2, 4, 5\] that the spec needs",
    ),
    "a tensor too many": (
        lambda f: replace_weights(f, lambda t: t.update(extra=torch.zeros(1))),
        "has a tensor 'extra' that the spec does not know",
    ),
    "a wrong shape": (
        lambda f: replace_weights(f, lambda t: t.update({"network.0.weight": torch.zeros(2, 4, 6)})),
        r"the tensor 'network.0.weight' is \[2, 4, 6\] float32 where the spec expects \[2, 4, 5\] float32",
    ),
    "a wrong type": (
        lambda f: replace_weights(f, lambda t: t.update({"network.0.weight": torch.zeros(2, 4, 5).half()})),
        r"is \[2, 4, 5\] float16 where the spec expects \[2, 4, 5\] float32",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_policy_folder_gives_one_line_that_names_the_file(make_policy, tmp_path, damage):
    folder = tmp_path / "shared"
    save_policy(folder, make_policy(1.0), {})
    harm, message = DAMAGES[damage]
    harm(folder)
    with pytest.raises(RlabError, match=message) as caught:
        load_policy(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 1


def test_inside_a_run_the_manifest_notices_what_the_policy_folder_alone_cannot(run, make_policy, tmp_path):
    save_policy(run.policy, make_policy(1.0), {"env_steps": 10})
    rewrite(run.policy, lambda data: data["extra"].update(env_steps=10**6))
    for path in (run.path, run.policy):
        with pytest.raises(
            RlabError, match=r"policy/policy\.json has a different SHA-256 than .*manifest\.json records"
        ):
            load_policy(path)
    (run.policy / "policy.json").unlink()
    with pytest.raises(RlabError, match=r"policy/policy\.json is missing"):
        load_policy(run.path)
    save_policy(tmp_path / "other", make_policy(2.0), {})
    shutil.copytree(tmp_path / "other", run.best)
    with pytest.raises(RlabError, match=r"manifest\.json does not know best/policy\.json"):
        load_policy(run.best)


def test_a_changed_config_stops_the_load_of_a_run(run, make_policy):
    save_policy(run.policy, make_policy(1.0), {})
    (run.path / "config.json").write_text('{"format": 1, "agent": "ppo"}')
    with pytest.raises(RlabError, match=r"config\.json has a different SHA-256"):
        load_policy(run.path)


def test_a_folder_of_something_else_is_told_so(tmp_path):
    with pytest.raises(RlabError, match="is neither a run folder"):
        load_policy(tmp_path)
    with pytest.raises(RlabError, match=r"nowhere is not a folder. `rlab list runs` shows"):
        load_policy(tmp_path / "nowhere")


def test_layers_of_other_people_need_trust(make_policy, tmp_path):
    save_policy(tmp_path / "shared", make_policy(1.0), {})
    rewrite(tmp_path / "shared", lambda d: d["spec"]["network"]["layers"][0].update(kind="os:getcwd"))
    with pytest.raises(RlabError, match="trust"):
        load_policy(tmp_path / "shared")

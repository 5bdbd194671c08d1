"""`rlab.supervised`, the public way: networks by kind, saved and loaded as they were."""

import json

import numpy as np
import pytest
import torch

from rlab import supervised
from rlab.errors import RlabError, UsageError
from rlab.networks.spec import build

NETWORKS = {
    "vector": (supervised.vector_network(3, 4, (5, 6), dropout=0.2), torch.randn(2, 7, 3)),
    "image": (supervised.image_network((2, 8, 9), 4, ((3, 3, 1), (5, 3, 2)), (6,), 0.2), torch.randn(2, 7, 2, 8, 9)),
    "text": (supervised.text_network(11, 4, 5, 6, 0.2), torch.randint(11, (2, 7, 9))),
    "no padding": (supervised.text_network(11, 4, padding_index=None), torch.randint(11, (2, 7, 9))),
}


@pytest.mark.parametrize("kind", sorted(NETWORKS))
def test_a_saved_network_comes_back_with_equal_outputs_for_stack_and_member(kind, tmp_path):
    spec, x = NETWORKS[kind]
    network = build(spec, (5, 8)).eval()
    expected = network(x)
    assert expected.shape == (2, 7, 4)
    folder = tmp_path / "saved"
    supervised.save_network(folder, network, spec, (5, 8), {"rows": 7})
    found = supervised.load_network(folder)
    assert torch.equal(found.network(x), expected)
    assert (found.spec, found.seeds, found.extra) == (spec, (5, 8), {"rows": 7})
    torch.testing.assert_close(found.member(8)(x[1]), expected[1], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found.member()(x[0]), expected[0], atol=1e-6, rtol=1e-5)


def test_a_fitted_network_can_be_saved_and_saving_again_replaces_it(tmp_path):
    inputs, labels = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32), np.arange(20) % 2
    spec = supervised.vector_network(3, 2, (4,))
    for epochs in (1, 2):
        found = supervised.fit(spec, inputs, labels, supervised.SupervisedSettings(epochs=epochs), seeds=(0, 1))
        supervised.save_network(tmp_path / "saved", found.network, spec, found.seeds, {})
    assert len(list((tmp_path / "saved").iterdir())) == 2
    again = supervised.load_network(tmp_path / "saved")
    x = torch.from_numpy(inputs).expand(2, 20, 3)
    assert (again.network(x).detach().numpy() == found.outputs(inputs)).all()


def test_what_is_broken_on_the_disk_gives_one_line(tmp_path):
    spec, _ = NETWORKS["vector"]
    folder = tmp_path / "saved"
    supervised.save_network(folder, build(spec, (5,)), spec, (5,), {})
    (weights,) = folder.glob("*.safetensors")
    whole, told = weights.read_bytes(), json.loads((folder / "network.json").read_text())

    def message(change=None):
        (folder / "network.json").write_text(json.dumps(told | (change or {})))
        with pytest.raises(RlabError) as caught:
            supervised.load_network(folder)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    other = supervised.vector_network(3, 4, (5,)).to_json()
    assert "lacks the tensor '2.bias'" in message({"spec": other})
    assert "unknown kind of layer" in message({"spec": {"layers": [{"kind": "lineer"}]}})
    assert "runs code from outside rlab" in message({"spec": {"layers": [{"kind": "os:system"}]}})
    assert "'seeds' must be a list of training seeds, not 3" in message({"seeds": 3})
    assert "names '../weights" in message({"weights": {"name": "../weights-00000000.safetensors", "sha256": ""}})
    weights.write_bytes(whole[:-1] + b"x")
    assert "has a different SHA-256" in message()
    weights.unlink()
    assert "is missing" in message()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: supervised.image_network((1, 4, 4), 2), "an image of 2x2 is too small for a 3x3 convolution."),
        (lambda: supervised.vector_network(3, 2, (4, 0)), "hidden (4, 0) must be 1 or more."),
        (lambda: supervised.vector_network(3, 2, dropout=1.0), "dropout 1.0 must be a share in [0, 1)."),
        (lambda: supervised.text_network(0, 2), "tokens 0 must be 1 or more."),
        (lambda: supervised.image_network((1, 4, 4), 2, ((8, 3, 0),)), "convolutions [8, 3, 0] must be 1 or more."),
    ],
)
def test_networks_that_cannot_be_are_refused(call, message):
    with pytest.raises(UsageError) as caught:
        call()
    assert str(caught.value) == message


def test_a_member_that_is_not_there_is_named(tmp_path):
    spec, _ = NETWORKS["vector"]
    supervised.save_network(tmp_path / "saved", build(spec, (5, 8)), spec, (5, 8), {})
    with pytest.raises(UsageError, match=r"^no member with training seed 6; this network has training seeds 5, 8\.$"):
        supervised.load_network(tmp_path / "saved").member(6)

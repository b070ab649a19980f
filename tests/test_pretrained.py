"""Fields in folders: the same file, a config for people, and the hub where it is asked for."""

import json
import sys
import types

import pytest
import torch

import transportflows as tpf


def field():
    net = tpf.networks.MLP(2, 8, 1, labels=3, generator=torch.Generator().manual_seed(0))
    return tpf.Velocity(net, tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,))))


def test_the_file_is_that_of_save_and_config_is_not_read(tmp_path):
    made = field()
    made.save_pretrained(tmp_path / "deep" / "folder")
    made.save(tmp_path / "file")
    place = tmp_path / "deep" / "folder"
    assert (place / "field.safetensors").read_bytes() == (tmp_path / "file").read_bytes()
    config = json.loads((place / "config.json").read_text())
    assert config["class"] == "Velocity"
    assert config["library_name"] == "transportflows"
    (place / "config.json").write_text("{broken")
    again = tpf.fields.from_pretrained(place)
    t, x = torch.tensor(0.5), torch.ones(1, 2)
    assert torch.equal(again.velocity(t, x), made.velocity(t, x))
    assert torch.equal(tpf.load_field(place / "field.safetensors").velocity(t, x),
                       made.velocity(t, x))  # fmt: skip


def test_what_is_no_folder_is_asked_of_the_hub(tmp_path, monkeypatch):
    field().save_pretrained(tmp_path)
    asked = []

    def fetch(name, file, revision=None):
        asked.append((name, file, revision))
        return str(tmp_path / file)

    monkeypatch.setitem(
        sys.modules, "huggingface_hub", types.SimpleNamespace(hf_hub_download=fetch)
    )
    found = tpf.fields.from_pretrained("some/field", revision="v1")
    assert isinstance(found, tpf.Velocity)
    assert asked == [("some/field", "field.safetensors", "v1")]
    tpf.fields.from_pretrained(tmp_path)
    assert len(asked) == 1


def test_what_is_refused(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"holds no field\.safetensors"):
        tpf.fields.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="'owner/name'"):
        tpf.fields.from_pretrained(tmp_path / "none")
    field().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no revisions"):
        tpf.fields.from_pretrained(tmp_path, revision="main")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match="pip install huggingface_hub"):
        tpf.fields.from_pretrained("some/field")


def test_a_field_that_cannot_be_saved_leaves_no_config(tmp_path):
    exact = tpf.oracle(field().process, tpf.Gaussian((2,)))
    with pytest.raises((ValueError, AttributeError)):
        exact.save_pretrained(tmp_path)
    assert not (tmp_path / "config.json").exists()

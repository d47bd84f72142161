"""Converted models are kept whole or not at all, and used only where they belong."""

import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest
import torch

from tests.inference.backends.models import (
    FLOAT32,
    MODES,
    assert_right,
    backend_of,
    config_of,
    entries,
    needs,
    refuse,
    warnings_in,
    windows_of,
    write_model,
)
from tests.pace import first_quickly
from tests.scans import scout_part
from verse3d.core.errors import CheckpointError
from verse3d.inference.backends import cache, openvino
from verse3d.inference.backends.cache import MANIFEST, content_sha256
from verse3d.inference.backends.openvino import OpenVinoBackend
from verse3d.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from verse3d.model.scout import SCOUT
from verse3d.model.starter import starter_file

needs("openvino")


def test_a_second_program_takes_the_kept_model_and_does_not_compare_again(model, monkeypatch):
    windows = windows_of(MODES["3d"])
    first = backend_of(model)
    logits = first(windows)
    monkeypatch.setattr(openvino, "convert", refuse)
    monkeypatch.setattr(openvino, "measure_parity", refuse)
    second = backend_of(model)
    torch.testing.assert_close(second(windows), logits, rtol=0, atol=0)
    assert second.name == "openvino" and second.record() == first.record()


def test_on_another_processor_it_is_compared_again(kept, monkeypatch):
    (path,) = entries(kept)[0].glob("parity-*.json")
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "cpu": "another"}))
    monkeypatch.setattr(openvino, "convert", refuse)
    backend = backend_of(kept)
    backend(windows_of(MODES["3d"]))
    assert backend.name == "openvino"
    assert json.loads(path.read_text()) == content


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x40
    path.write_bytes(bytes(content))


DAMAGES = {
    "weights cut short": lambda entry: cut(entry / "model.bin"),
    "weights with another bit": lambda entry: flip(entry / "model.bin"),
    "graph cut short": lambda entry: cut(entry / "model.xml"),
    "graph with another bit": lambda entry: flip(entry / "model.xml"),
    "empty weights": lambda entry: (entry / "model.bin").write_bytes(b""),
    "no weights": lambda entry: (entry / "model.bin").unlink(),
    "no graph": lambda entry: (entry / "model.xml").unlink(),
    "manifest cut short": lambda entry: cut(entry / MANIFEST),
    "manifest of something else": lambda entry: (entry / MANIFEST).write_text("[1, 2]"),
    "manifest without hashes": lambda entry: (entry / MANIFEST).write_text('{"sha256": {}}'),
}


@pytest.mark.parametrize("damage", first_quickly(DAMAGES, 3))
def test_a_damaged_model_is_never_used_but_converted_again(kept, caplog, damage):
    windows = windows_of(MODES["3d"])
    (entry,) = entries(kept)
    whole = {name: (entry / name).read_bytes() for name in ("model.xml", "model.bin")}
    DAMAGES[damage](entry)
    backend = backend_of(kept)
    assert_right(kept, backend(windows), windows)
    assert backend.name == "openvino"
    (warning,) = warnings_in(caplog)
    assert "damaged and converted again" in warning
    assert (entry / "model.bin").read_bytes() == whole["model.bin"]
    caplog.clear()
    assert_right(kept, backend_of(kept)(windows), windows)
    assert not warnings_in(caplog)


def test_damaged_figures_are_measured_again(kept):
    (path,) = entries(kept)[0].glob("parity-*.json")
    content = path.read_text()
    for text in ("{", "[]", '{"cpu": 1}', content.replace('"precision"', '"x"')):
        path.write_text(text)
        backend = backend_of(kept)
        backend(windows_of(MODES["3d"]))
        assert backend.name == "openvino" and path.read_text() == content


@pytest.mark.slow  # seconds, and what is like it runs quickly
def test_a_checkpoint_that_takes_the_place_of_another_gets_a_model_of_its_own(model, tmp_path):
    windows = windows_of(MODES["3d"])
    before = backend_of(model)(windows)
    (old,) = entries(model)
    other = write_model(model.path, config_of(), seed=2)
    after = backend_of(other)(windows)
    assert_right(other, after, windows)
    assert (after - before).abs().max() > 0.1
    (new,) = entries(model)
    assert new != old


def test_the_key_is_the_content_not_the_file(model):
    again = write_model(model.path.with_name("last.pt"), config_of())
    assert content_sha256(again.checkpoint) == content_sha256(model.checkpoint)
    save_checkpoint(model.path, model.checkpoint)
    weights = dict(model.checkpoint.network)
    name = next(iter(weights))
    weights[name] = weights[name] + 1e-6
    changed = type(model.checkpoint)(model.checkpoint.config, weights, 1, {})
    assert content_sha256(changed) != content_sha256(model.checkpoint)


def test_the_key_knows_the_name_of_the_network_and_not_the_scout_beside_it(model):
    config, weights = model.checkpoint.config, model.checkpoint.network
    renamed = config.model_copy(update={"network": config.network.model_copy(update={"name": "dynunet"})})
    assert content_sha256(Checkpoint(renamed, weights, 1, {})) != content_sha256(model.checkpoint)
    # The scout is never converted: PyTorch computes it.
    with_scout = Checkpoint(config, weights, 1, {}, networks={SCOUT: scout_part(config, {})})
    assert content_sha256(with_scout) == content_sha256(model.checkpoint)


@pytest.mark.slow  # seconds, and what is like it runs quickly
def test_a_folder_that_cannot_be_written_to_costs_a_conversion_each_time(model, caplog):
    model.path.with_suffix(".openvino").write_text("a file stands where the folder would be")
    windows = windows_of(MODES["3d"])
    for _ in range(2):
        backend = backend_of(model)
        assert_right(model, backend(windows), windows)
        assert backend.name == "openvino"
    assert "converted each time" in caplog.text and not warnings_in(caplog)


@pytest.fixture
def read_only(model, monkeypatch, tmp_path):
    """The model's folder cannot be written to (even root is told so), and the user's cache is this folder."""
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != model.path.parent and access(path, mode))
    monkeypatch.setattr(cache, "user_cache_path", lambda *_, **__: tmp_path / "cache")
    return tmp_path / "cache"


def test_the_models_of_the_starter_weights_never_go_into_the_installed_package(monkeypatch, tmp_path):
    monkeypatch.setattr(cache, "user_cache_path", lambda *_, **__: tmp_path / "cache")
    assert cache.ModelCache.folder_for(starter_file()).parent == tmp_path / "cache" / "openvino"
    assert cache.ModelCache.folder_for(tmp_path / "best.pt") == tmp_path / "best.openvino"


def test_beside_a_model_in_a_read_only_folder_nothing_is_written_and_the_users_cache_keeps_it(model, caplog, read_only):
    windows, converted = windows_of(MODES["3d"]), "converting the model"
    assert_right(model, backend_of(model)(windows), windows)
    assert caplog.text.count(converted) == 1 and not model.path.with_suffix(".openvino").exists()
    assert_right(model, backend_of(model)(windows), windows)
    assert caplog.text.count(converted) == 1 and not warnings_in(caplog)
    (folder,) = (read_only / "openvino").iterdir()
    assert folder.name.startswith("best-")


def test_models_of_the_same_name_in_two_read_only_folders_do_not_share_a_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    folders = {cache.ModelCache.folder_for(tmp_path / name / "best.pt") for name in ("a", "b")}
    assert len(folders) == 2


def test_a_proven_model_needs_no_network_and_another_is_built_at_once(model, kept):
    def refused():
        raise CheckpointError("the weights do not fit")

    windows = windows_of(MODES["3d"])
    shape = tuple(windows.shape[1:])
    unproven = OpenVinoBackend.of(refused, model.checkpoint, model.path, FLOAT32)
    with pytest.raises(CheckpointError, match="do not fit"):
        unproven.make_ready(shape)
    proven = OpenVinoBackend.of(refused, kept.checkpoint, kept.path, FLOAT32)
    proven.make_ready(shape)
    assert_right(kept, proven(windows), windows)
    assert proven.name == "openvino"


@pytest.mark.parametrize("how", ["an error", "half of the weights, silently"])
def test_a_full_disk_leaves_nothing_behind(model, monkeypatch, how):
    write = openvino.write_model

    def until_full(converted, folder):
        write(converted, folder)
        cut(folder / "model.bin")
        if how == "an error":
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(openvino, "write_model", until_full)
    backend, windows = backend_of(model), windows_of(MODES["3d"])
    assert_right(model, backend(windows), windows)
    assert backend.name == "openvino"
    assert list(model.path.with_suffix(".openvino").iterdir()) == []


def test_a_model_in_an_earlier_format_is_removed_and_whatever_else_bears_such_a_name_is_not(tmp_path):
    kept = cache.ModelCache(tmp_path / "best.openvino", "a" * 64, (1, 8, 8, 8), {"cpu": "x"})
    mine = {"format": "verse3d openvino cache", "checkpoint_sha256": "a" * 64, "sha256": {}}
    earlier, other, broken = (kept.folder / name for name in ("earlier", "other", "broken"))
    for folder, text in ((earlier, json.dumps(mine)), (other, json.dumps({**mine, "format": "?"})), (broken, "{")):
        folder.mkdir(parents=True)
        (folder / "conversion.json").write_text(text)

    def write(folder):
        for name in ("model.xml", "model.bin"):
            (folder / name).write_bytes(b"1")

    assert kept.store(write) and kept.load() == (b"1", b"1")
    assert not earlier.exists() and other.is_dir() and broken.is_dir()


def test_what_a_killed_program_left_is_removed_after_an_hour(model):
    folder = model.path.with_suffix(".openvino")
    for name, age_s in ((".verse3d-1-old", 7200), (".verse3d-2-young", 60)):
        (folder / name).mkdir(parents=True)
        (folder / name / "model.bin").write_bytes(b"half")
        os.utime(folder / name, (time.time() - age_s,) * 2)
    (folder / "notes of somebody").mkdir()
    backend_of(model)(windows_of(MODES["3d"]))
    left = {path.name for path in folder.iterdir()} - {entries(model)[0].name}
    assert left == {".verse3d-2-young", "notes of somebody"}


def _compute(path, queue, barrier):

    torch.set_num_threads(1)
    checkpoint = load_checkpoint(path)
    network = openvino_network(checkpoint, path)
    backend, windows = OpenVinoBackend.of(lambda: network, checkpoint, path, FLOAT32), windows_of(MODES["3d"])
    barrier.wait(timeout=600)
    queue.put((backend(windows).numpy(), backend.name))


def openvino_network(checkpoint, path):
    from verse3d.inference.backends import network_of  # noqa: PLC0415

    return network_of(checkpoint, path)


@pytest.mark.slow
def test_two_programs_at_once_keep_one_whole_model(model):
    context = multiprocessing.get_context("spawn")
    queue, barrier = context.Queue(), context.Barrier(2)
    programs = [context.Process(target=_compute, args=(model.path, queue, barrier)) for _ in range(2)]
    for program in programs:
        program.start()
    results = [queue.get(timeout=600) for _ in programs]
    for program in programs:
        program.join(timeout=600)
    for logits, name in results:
        assert_right(model, torch.from_numpy(logits), windows_of(MODES["3d"]))
        assert name == "openvino"
    (entry,) = entries(model)
    assert sorted(path.name for path in model.path.with_suffix(".openvino").iterdir()) == [entry.name]
    backend = backend_of(model)
    backend(windows_of(MODES["3d"]))
    assert backend.name == "openvino"

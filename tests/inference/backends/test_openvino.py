"""OpenVINO: as PyTorch or not at all, kept whole or not at all."""

import json
import logging
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.inference.backends.models import (
    BFLOAT16,
    CPU,
    FLOAT32,
    KINDS,
    MODES,
    Model,
    config_of,
    needs,
    reference,
    windows_of,
    write_model,
)
from tests.pace import first_quickly
from verse3d.core.errors import CheckpointError
from verse3d.core.runtime import choose_precision
from verse3d.inference.backends import TorchBackend, cache, engine, openvino, torch_backend
from verse3d.inference.backends.cache import MANIFEST, content_sha256
from verse3d.inference.backends.openvino import OpenVinoBackend
from verse3d.model.checkpoint import load_checkpoint, save_checkpoint
from verse3d.model.starter import starter_file

needs("openvino")


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path / "best.pt", config_of())


@pytest.fixture(scope="module")
def converted(tmp_path_factory) -> Path:
    """The folder of a model that was converted, compared and kept; read only. Converting takes a second."""
    model = write_model(tmp_path_factory.mktemp("converted") / "best.pt", config_of())
    backend_of(model)(windows_of(MODES["3d"]))
    return model.path.parent


@pytest.fixture
def kept(converted, tmp_path):
    """The same in a folder of the test's own."""
    shutil.copytree(converted, tmp_path / "kept")
    path = tmp_path / "kept" / "best.pt"
    return Model(path, load_checkpoint(path))


@pytest.fixture(autouse=True)
def _log_all(caplog):
    caplog.set_level(logging.DEBUG, logger="verse3d")


def backend_of(model, precision=FLOAT32) -> OpenVinoBackend:
    return OpenVinoBackend.of(lambda: model.network, model.checkpoint, model.path, precision)


def entries(model):
    folder = model.path.with_suffix(".openvino")
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def warnings_in(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def assert_right(model, logits, windows, within=2e-4):
    torch.testing.assert_close(logits.double(), reference(model.network, windows), rtol=within, atol=within)


@pytest.mark.parametrize("kind", first_quickly(KINDS, 2), ids=" ".join)
def test_every_network_and_mode_computes_what_pytorch_does(tmp_path, kind):
    model = write_model(tmp_path / "best.pt", config_of(*kind))
    backend, windows = backend_of(model), windows_of(MODES[kind[0]], 3)
    logits = backend(windows)
    assert backend.name == "openvino", backend.refusal
    assert logits.dtype is torch.float32
    assert_right(model, logits, windows)


def test_bfloat16_is_judged_by_the_labels(model, caplog):
    backend, windows = backend_of(model, BFLOAT16), windows_of(MODES["3d"])
    logits = backend(windows)
    assert backend.name == "openvino" and backend.precision == "bfloat16"
    (figures,) = backend.record()["parity"].values()
    assert figures["passed"] and figures["precision"] == "bfloat16" and figures["pieces"] == 1
    assert_right(model, logits, windows, within=0.3)


def test_batches_of_any_size_and_views_are_taken_and_earlier_results_stay(model):
    backend, windows = backend_of(model), windows_of(MODES["3d"], 5)
    first = backend(windows[:2])
    kept = first.clone()
    with torch.inference_mode():
        one = backend(windows[4:])
    sparse = backend(windows[::2].transpose(2, 4).contiguous().transpose(2, 4))
    torch.testing.assert_close(first, kept, rtol=0, atol=0)
    first += 1  # the caller's own
    assert_right(model, kept, windows[:2])
    assert_right(model, one, windows[4:])
    assert_right(model, sparse, windows[::2])
    assert len(entries(model)) == 1


@pytest.mark.slow  # seconds, and what is like it runs quickly
def test_each_shape_has_its_own_model(model):
    backend = backend_of(model)
    for shape in ((1, 16, 16, 16), (1, 16, 32, 8), (1, 16, 16, 16)):
        windows = windows_of(shape)
        assert_right(model, backend(windows), windows)
    assert len(entries(model)) == 2
    assert set(backend.record()["parity"]) == {"1x16x16x16", "1x16x32x8"}


@pytest.mark.slow  # seconds, and what is like it runs quickly
def test_pytorch_computes_until_a_window_shows_something(model):
    backend, flat = backend_of(model), torch.zeros(2, *MODES["3d"])
    assert_right(model, backend(flat), flat, within=1e-3)
    assert backend.record()["parity"] == {}
    mixed = torch.cat([flat[:1], windows_of(MODES["3d"], 1)])
    assert_right(model, backend(mixed), mixed, within=2e-2)
    (figures,) = backend.record()["parity"].values()
    assert figures["pieces"] == 1 and figures["passed"]


def test_a_second_program_takes_the_kept_model_and_does_not_compare_again(model, monkeypatch):
    windows = windows_of(MODES["3d"])
    first = backend_of(model)
    logits = first(windows)
    monkeypatch.setattr(openvino, "convert", refuse)
    monkeypatch.setattr(openvino, "measure_parity", refuse)
    second = backend_of(model)
    torch.testing.assert_close(second(windows), logits, rtol=0, atol=0)
    assert second.name == "openvino" and second.record() == first.record()


def refuse(*_, **__):
    raise AssertionError("this must not be called")


def test_nothing_that_reports_home_is_loaded_with_it(converted):
    assert "openvino" in sys.modules
    assert not [name for name in sys.modules if name.startswith("openvino_telemetry")]


def test_what_is_converted_is_not_reported_even_if_openvino_found_its_reporter_before(converted, monkeypatch):
    reported = []

    class Reporter:
        def __init__(self, *_, **__): ...

        def send_event(self, *event):
            reported.append(event)

        start_session = end_session = force_shutdown = send_error = send_stack_trace = send_event

    reporter = types.SimpleNamespace(Telemetry=Reporter)
    holders = [module for name, module in sys.modules.items() if name.startswith("openvino.tools.ovc.")]
    for module in [module for module in holders if hasattr(module, "tm")]:
        monkeypatch.setattr(module, "tm", reporter)  # as if somebody else had loaded OpenVINO
    network = nn.Conv3d(1, 1, 1)
    engine.convert(network, (1, 4, 4, 4))
    assert reported == []
    engine.load_openvino().convert_model(engine.traced(network, (1, 4, 4, 4)))  # what others convert is theirs to tell
    assert reported


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


def test_what_is_ready_is_not_compiled_again(kept, monkeypatch):
    shape, compiled = MODES["3d"], []
    backend = backend_of(kept)
    monkeypatch.setattr(OpenVinoBackend, "_compiled", lambda *_: compiled.append(1))
    backend.make_ready(shape)
    backend.make_ready(list(shape))
    assert compiled == [1]


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


def wrong_model(_, shape):
    """The conversion of another network."""
    torch.manual_seed(99)
    return openvino_convert(nn.Conv3d(1, 1, 3, padding=1), shape)


openvino_convert = openvino.convert


@pytest.mark.parametrize("precision", [FLOAT32, BFLOAT16])
def test_a_wrong_model_is_refused_with_figures_and_stays_refused(model, monkeypatch, caplog, precision):
    monkeypatch.setattr(openvino, "convert", wrong_model)
    windows = windows_of(MODES["3d"])
    backend = backend_of(model, precision)
    expected = torch_backend(model.network, CPU, precision)(windows)
    torch.testing.assert_close(backend(windows), expected, rtol=0, atol=0)
    assert backend.name == "torch" and "too far from PyTorch" in backend.record()["refusal"]
    (figures,) = backend.record()["parity"].values()
    assert figures["passed"] is False
    (warning,) = warnings_in(caplog)
    assert "differ by up to" in warning and "PyTorch computes instead" in warning
    monkeypatch.setattr(openvino, "convert", refuse)
    monkeypatch.setattr(openvino, "measure_parity", refuse)
    later = backend_of(model, precision)
    torch.testing.assert_close(later(windows), expected, rtol=0, atol=0)
    assert later.name == "torch" and "too far" in later.refusal


UNSUPPORTED = RuntimeError("Unsupported operation\nat line 5")


@pytest.mark.parametrize(
    ("step", "error"),
    [
        # Every step, and every error where it costs no conversion.
        ("versions", UNSUPPORTED),
        ("convert", UNSUPPORTED),
        ("convert", MemoryError()),
        ("convert", TypeError("new API")),
        ("read_model", UNSUPPORTED),
        ("read_model", MemoryError()),
        ("Engine", TypeError("new API")),
    ],
)
def test_whatever_openvino_meets_pytorch_takes_over(model, monkeypatch, caplog, step, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(openvino, step, fail)
    if step == "read_model" and isinstance(error, RuntimeError):
        monkeypatch.setattr(openvino.ModelCache, "discard", fail)
    backend, windows = backend_of(model), windows_of(MODES["3d"])
    assert_right(model, backend(windows), windows)
    assert backend.name == "torch" and type(error).__name__ in backend.record()["refusal"]
    assert len(warnings_in(caplog)) == 1
    backend(windows)
    assert len(warnings_in(caplog)) == 1


def test_an_error_in_the_middle_of_a_scan_loses_no_window(model, monkeypatch, caplog):
    backend, windows = backend_of(model), windows_of(MODES["3d"], 4)
    assert_right(model, backend(windows), windows)

    def fail(*_):
        raise RuntimeError("illegal instruction")

    monkeypatch.setattr(openvino.Engine, "__call__", fail)
    assert_right(model, backend(windows), windows)
    assert backend.name == "torch" and "illegal instruction" in warnings_in(caplog)[0]


def test_ctrl_c_is_no_error_of_openvino(model, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(openvino, "convert", interrupt)
    with pytest.raises(KeyboardInterrupt):
        backend_of(model)(windows_of(MODES["3d"]))


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
    from verse3d.model.checkpoint import load_checkpoint  # noqa: PLC0415 - in a process of its own

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


def test_it_moves_to_a_gpu_as_pytorch_and_stays_on_a_cpu_as_it_is(model):
    backend = backend_of(model, choose_precision("off", CPU))
    assert backend.to(CPU) is backend and backend.device == CPU
    shutil.rmtree(model.path.with_suffix(".openvino"), ignore_errors=True)
    assert isinstance(backend.to(torch.device("meta")), TorchBackend)


def test_the_core_is_made_once_and_never_given_back():
    assert engine.openvino_core() is engine.openvino_core()


@pytest.mark.slow  # it starts a program of its own; that the core stays is looked at above
def test_a_signal_does_no_harm_after_the_last_model_is_gone_in_another_thread():
    """OpenVINO unmaps a stack for signals that the main thread still uses, if its last core goes elsewhere."""
    program = """
import gc, os, signal, threading
import torch
from verse3d.core.runtime import choose_precision
from verse3d.inference.backends.engine import Engine, convert
precision = choose_precision("off", torch.device("cpu"))
engines = [Engine(convert(torch.nn.Conv3d(1, 2, 1), (1, 4, 4, 4)), (1, 4, 4, 4), precision)]
engines[0](torch.zeros(1, 1, 4, 4, 4))
def drop():
    engines.clear()
    gc.collect()
thread = threading.Thread(target=drop)
thread.start()
thread.join()
signal.signal(signal.SIGINT, lambda *_: print("heard"))
os.kill(os.getpid(), signal.SIGINT)
"""
    run = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, "heard\n"), run.stderr

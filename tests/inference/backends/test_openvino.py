"""OpenVINO: as PyTorch or not at all."""

import shutil
import subprocess
import sys
import types

import pytest
import torch
from torch import nn

from tests.inference.backends.models import (
    BFLOAT16,
    CPU,
    FLOAT32,
    KINDS,
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
from verse3d.core.runtime import choose_precision
from verse3d.inference.backends import TorchBackend, engine, openvino, torch_backend
from verse3d.inference.backends.openvino import OpenVinoBackend

needs("openvino")


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


def test_what_is_ready_is_not_compiled_again(kept, monkeypatch):
    shape, compiled = MODES["3d"], []
    backend = backend_of(kept)
    monkeypatch.setattr(OpenVinoBackend, "_compiled", lambda *_: compiled.append(1))
    backend.make_ready(shape)
    backend.make_ready(list(shape))
    assert compiled == [1]


def wrong_model(_, shape, **__):
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
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(openvino, "convert", interrupt)
    with pytest.raises(KeyboardInterrupt):
        backend_of(model)(windows_of(MODES["3d"]))


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

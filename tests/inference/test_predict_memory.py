"""What prediction holds is planned, refused where it does not fit, and given back."""

import gc
import weakref
from pathlib import Path

import numpy as np
import pytest

from tests import scans
from tests.inference.predicting import FINE, LEVELS, predicted, predictor, run
from tests.scans import tiny_config
from verse3d.core import read_ahead
from verse3d.core.errors import MemoryLimitError
from verse3d.core.memory import give_back_freed_memory
from verse3d.core.runtime import peak_rss_mb, rss_mb
from verse3d.core.volume import read_image
from verse3d.data.cases import Case
from verse3d.data.predictions import mask_path
from verse3d.inference import predict, scan_stages
from verse3d.inference.aggregator import BinaryAggregator
from verse3d.inference.pipeline import overlapped
from verse3d.inference.predictor import Predictor
from verse3d.inference.scan_stages import ScanStages


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux says what is held now")
def test_the_peak_memory_of_a_scan_is_not_that_of_the_scan_before(tmp_path, batch, monkeypatch):
    prepare = Predictor.prepare

    def hungry(self, volume, ready):
        if "case0" in str(volume.path):
            np.ones(80_000_000).sum()  # 640 MB
        return prepare(self, volume, ready)

    monkeypatch.setattr(Predictor, "prepare", hungry)
    first, _, last = run(batch, tmp_path / "out", overlap=False).records
    assert first.peak_rss_mb > last.peak_rss_mb + 350
    assert last.process_peak_rss_mb >= first.peak_rss_mb, "what the system says of the process stays true"
    assert peak_rss_mb() >= first.peak_rss_mb - 0.1, "rounded"


def test_a_scan_that_does_not_fit_is_refused_before_it_is_read_and_the_others_are_done(tmp_path, many, monkeypatch):
    big = tmp_path / "scans" / "big_ct.nii.gz"
    scans.write_nifti(big, np.zeros((420, 420, 420), np.int16), np.eye(4))
    read = []
    monkeypatch.setattr(
        read_ahead, "read_image", lambda path, arriving: read.append(path) or read_image(path, arriving)
    )
    cases = [many[0], Case("big", "big", big), many[1]]
    gc.collect()
    give_back_freed_memory()  # of the tests before, or it would be free for the scan
    # Right between the 60 MB that the small ones are planned with and the 240 MB of the big one.
    first, refused, last = run(cases, tmp_path / "out", max_ram_gb=(rss_mb() + 150) / 1000).records
    assert (first.status, refused.status, last.status) == ("written", "failed", "written")
    assert "this needs at least" in refused.error and "`max_ram_gb=" in refused.error
    assert big not in read and not mask_path(tmp_path / "out", "big").exists()


def test_a_limit_below_what_the_program_holds_is_refused_at_once(tmp_path, many):
    with pytest.raises(MemoryLimitError, match="the program and the model alone hold"):
        run(many, tmp_path / "out", max_ram_gb=0.01)


def test_a_model_whose_single_window_cannot_fit_is_refused_before_it_is_tried(tmp_path, many, monkeypatch):
    """An empty window of 640^3 voxels would take a gigabyte for itself, and the network several."""
    monkeypatch.setattr(Predictor, "window_mb", lambda _: pytest.fail("tried"))
    by = predictor(tiny_config(sampling={"patch_voxels": [640, 640, 640]}))
    with pytest.raises(MemoryLimitError, match="the program and the model with one of its windows hold"):
        predicted(many, by, tmp_path / "out", max_ram_gb=rss_mb() / 1000 + 1)


def test_one_scan_that_cannot_fit_does_not_keep_the_others_from_being_overlapped(tmp_path, many, monkeypatch):
    coarse = np.diag([60.0, 60.0, 60.0, 1.0])
    big = scans.write_nifti(tmp_path / "scans" / "big_ct.nii.gz", np.zeros((30, 30, 30), np.int16), coarse)
    used = []
    monkeypatch.setattr(predict, "overlapped", lambda *way: used.append("overlapped") or overlapped(*way))
    cases = [many[0], Case("big", "big", big), many[1]]
    report = run(cases, tmp_path / "out", max_ram_gb=(rss_mb() + 600) / 1000)
    assert [record.status for record in report.records] == ["written", "failed", "written"]
    assert used == ["overlapped"]


@pytest.mark.parametrize("channels_of", [FINE, LEVELS], ids=["one label", "26 levels"])
def test_what_a_window_takes_includes_room_for_three_more_logits(channels_of, monkeypatch):
    """Freed memory comes in pieces, into which the next window does not fit."""
    by = predictor(channels_of)
    channels, voxels = by.method.network_scheme.output_channels, np.prod(channels_of.sampling.patch_voxels)
    monkeypatch.setattr("verse3d.inference.predictor.rss_mb", lambda: 1e9)  # so that nothing seems to be taken
    assert by.window_mb() == pytest.approx(3 * channels * voxels * 4 / 1e6)


def test_no_image_is_held_while_its_mask_is_made(tmp_path, many, monkeypatch):
    """The plan counts mask and probabilities then, not the image as well."""
    segment, write, images, held = ScanStages.segment, ScanStages.write, [], []

    def noting(stages, scan):
        images.append(weakref.ref(scan.image))
        return segment(stages, scan)

    def looking(stages, scan):
        gc.collect()
        held.append(images[-1]() is not None)
        return write(stages, scan)

    monkeypatch.setattr(ScanStages, "segment", noting)
    monkeypatch.setattr(ScanStages, "write", looking)
    run(many[:1], tmp_path / "out")
    assert held == [False]


def test_freed_probabilities_are_given_back_before_the_mask_is_cleaned(tmp_path, many, monkeypatch):
    steps, mask, finish = [], BinaryAggregator.mask, Predictor.finish
    monkeypatch.setattr(BinaryAggregator, "mask", lambda own: (steps.append("mask"), mask(own))[1])
    monkeypatch.setattr(scan_stages, "give_back_freed_memory", lambda: steps.append("give back"))
    monkeypatch.setattr(Predictor, "finish", lambda *words: (steps.append("clean"), finish(*words))[1])
    run(many[:1], tmp_path / "out")
    assert steps == ["give back", "mask", "give back", "clean"]

"""The picture of a scan: which values it shows and calls labels, and what the command says about it."""

import numpy as np
import pytest
from PIL import Image

import verse3d
from tests import scans
from tests.report.looking import REAL, column, drawn, preview, whole_text
from tests.scans import PIR, spine, turned
from verse3d.cli import main
from verse3d.core.errors import ConfigError, DataError, GeometryError
from verse3d.core.geometry import Geometry
from verse3d.data.cases import Case, CaseIndex, write_index
from verse3d.report.appearance import choose_window, has_hounsfield_units, is_label_map, label_table
from verse3d.report.cuts import label_places
from verse3d.report.look import look_figure


class TestValues:
    def test_of_a_ct_are_seen_in_a_bone_window(self, tmp_path):
        hu, _ = column(PIR)
        scan = preview(tmp_path, hu, PIR)
        window = choose_window(scan)
        assert has_hounsfield_units(scan) and (window.low, window.high) == (-200, 1000) and "HU" in window.text

    @pytest.mark.parametrize("dtype", [np.uint8, np.float32])
    def test_that_are_no_hu_are_seen_between_percentiles(self, tmp_path, dtype):
        values = np.random.default_rng(0).uniform(0, 200, PIR.shape).astype(dtype)
        window = choose_window(preview(tmp_path, values, PIR))
        low, high = np.percentile(values, [0.5, 99.5])
        assert (window.low, window.high) == (pytest.approx(low, abs=2), pytest.approx(high, abs=2))
        assert "no HU" in window.text and "percentiles" in window.text

    @pytest.mark.parametrize("value", [np.nan, 7.0])
    def test_that_are_all_the_same_or_none_are_drawn(self, tmp_path, value):
        scan = preview(tmp_path, np.full(PIR.shape, value, np.float32), PIR)
        window = choose_window(scan)
        assert window.low < window.high
        look_figure(scan, title="").figure.canvas.draw()

    def test_are_shown_in_the_wanted_window(self, tmp_path):
        figure = drawn(tmp_path, PIR, window=(-50, 350)).figure
        assert [axes.images[0].get_clim() for axes in figure.axes[:3]] == [(-50, 350)] * 3
        for wrong in ((3, 3), (5, 1), (0, np.nan)):
            with pytest.raises(ConfigError, match="lower first"):
                drawn(tmp_path, PIR, window=wrong)

    def test_that_are_no_numbers_are_purple_and_said(self, tmp_path):
        hu, mask = column(PIR)
        hu = hu.astype(np.float32)
        hu[:, :, :9] = np.nan
        found = look_figure(preview(tmp_path, hu, PIR), mask=mask, title="")
        assert "NaN" in found.notes[0] and found.notes[0][1:] in whole_text(found.figure)
        assert np.ma.is_masked(found.figure.axes[1].images[0].get_array())

    def test_of_a_label_map_are_known_from_greys(self, tmp_path):
        hu, mask = column(PIR)
        random = np.random.default_rng(0)
        others = [hu, random.integers(0, 255, PIR.shape).astype(np.uint8), np.zeros(PIR.shape, np.uint8), mask + 0.5]
        for labels in (mask, mask.astype(np.float64), (mask > 0).astype(np.int16), mask.astype(np.uint16) * 900):
            assert is_label_map(preview(tmp_path, labels, PIR))
        assert not any(is_label_map(preview(tmp_path, other, PIR)) for other in others)

    def test_of_a_binary_mask_are_called_vertebrae_but_a_c1_stays_one(self):
        tall = Geometry((10, 10, 40), np.diag([1.0, 1.0, 3.0, 1.0]))
        mask = np.ones(tall.shape, np.uint8)
        assert label_table(label_places(mask, tall))[1].name == "vertebrae"
        mask[:, :, 10:] = 0
        assert label_table(label_places(mask, tall))[1].name == "C1"


@pytest.fixture
def listed(tmp_path):
    """An index with a complete case, one whose mask is turned away, and a mask alone."""
    data = spine()
    paths = {name: tmp_path / "in" / f"{name}.nii.gz" for name in ("ct", "seg", "wrong_seg")}
    data.write(paths["ct"], paths["seg"])
    scans.write_nifti(paths["wrong_seg"], data.mask, turned(PIR, (0, 0, 20)).affine)
    cases = (
        Case("good", "p1", paths["ct"], paths["seg"], relabel=((19, 18),), notes=("a copy was left out",)),
        Case("bad", "p2", paths["ct"], paths["wrong_seg"]),
        Case("alone", "p3", None, paths["seg"]),
        Case("again", "p3", paths["ct"], None),
    )
    write_index(tmp_path / "cases.jsonl", CaseIndex(cases))
    return tmp_path / "cases.jsonl"


def shown_words(monkeypatch):
    """What the figures say that are saved from now on."""
    found = []
    monkeypatch.setattr("verse3d.report.figures.save_figure", lambda figure, *_, **__: found.append(whole_text(figure)))
    return found


class TestCommand:
    def test_draws_a_case_by_its_name_with_its_corrected_mask(self, listed, tmp_path, capsys):
        out = tmp_path / "out" / "look.png"
        out.parent.mkdir()
        assert main(["look", "good", "--data", str(listed), "-o", str(out)]) == 0
        assert capsys.readouterr().out.splitlines() == [str(out), "note: a copy was left out"]
        with Image.open(out) as picture:
            assert picture.format == "PNG" and 1000 <= picture.width <= 1400
        assert [path.name for path in out.parent.iterdir()] == ["look.png"]

    def test_shows_corrections_and_takes_another_mask_as_it_is(self, listed, tmp_path, monkeypatch):
        words = shown_words(monkeypatch)
        mask = tmp_path / "in" / "seg.nii.gz"
        verse3d.look("good", data=listed, out=tmp_path / "a.png")
        verse3d.look("p1", data=listed, out=tmp_path / "b.png", mask=mask)
        verse3d.look(tmp_path / "in" / "ct.nii.gz", out=tmp_path / "c.png", mask=mask)
        verse3d.look(mask, out=tmp_path / "d.png")
        verse3d.look("alone", data=listed, out=tmp_path / "e.png")
        assert ["T11" in text and "T12" not in text for text in words] == [True, False, False, False, False]
        assert ["labels on black" in text for text in words] == [False, False, False, True, True]

    def test_cuts_where_it_is_told(self, listed, tmp_path):
        out = tmp_path / "a.png"
        x, y, z = PIR.world_from_index([[12, 9, 7]])[0]
        assert main(["look", "again", "--data", str(listed), "-o", str(out), "--at", f"{x},{y},{z}"]) == 0
        again = verse3d.look("again", data=listed, out=out, at=(x, y, z), overwrite=True)
        assert again.centre_mm == pytest.approx((x, y, z))
        low = min(x for x, *_ in PIR.corners_mm())
        assert low < 0
        point = f"{low},{y},{z}"
        options = ["--at", point, "--window", "-9,8", "--overwrite"]
        assert main(["look", "again", "--data", str(listed), "-o", str(out), *options]) == 0

    def test_makes_no_folder_and_replaces_no_picture_unasked(self, listed, tmp_path, capsys):
        assert main(["look", "good", "--data", str(listed), "-o", str(tmp_path / "new" / "a.png")]) == 3
        assert "there is no folder" in capsys.readouterr().err and not (tmp_path / "new").exists()
        (tmp_path / "a.png").write_text("mine")
        assert main(["look", "good", "--data", str(listed), "-o", str(tmp_path / "a.png")]) == 3
        assert "exists already" in capsys.readouterr().err and (tmp_path / "a.png").read_text() == "mine"
        assert main(["look", "good", "--data", str(listed), "-o", str(tmp_path / "a.png"), "--overwrite"]) == 0

    def test_takes_a_folder_with_one_case_and_names_those_of_a_folder_with_several(self, listed, tmp_path, capsys):
        spine().write(tmp_path / "one" / "ct.nii.gz")
        assert main(["look", str(tmp_path / "one"), "-o", str(tmp_path / "a.png")]) == 0
        spine().write(tmp_path / "one" / "other.nii.gz")
        assert main(["look", str(tmp_path / "one"), "-o", str(tmp_path / "b.png")]) == 3
        assert "holds 2 cases: one, other" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("arguments", "code", "words"),
        [
            (["good"], 2, "say where it is listed"),
            (["good", "--data", "INDEX", "-o", "a.jpg"], 2, "PNG"),
            (["good", "--data", "INDEX", "--at", "1,2,3", "--level", "L1"], 2, "cannot be combined"),
            (["good", "--data", "INDEX", "--at", "1,2"], 2, "3 numbers"),
            (["good", "--data", "INDEX", "--at", "1,2,x"], 2, "3 numbers"),
            (["good", "--data", "INDEX", "--window", "5"], 2, "2 numbers"),
            (["good", "--data", "INDEX", "--window", "5,1"], 2, "lower first"),
            (["good", "--data", "INDEX", "--at", "0,0,9999"], 3, "outside of the scan"),
            (["good", "--data", "INDEX", "--level", "C1"], 3, "which holds T11, L1-L2"),
            (["good", "--data", "INDEX", "--level", "S1"], 3, "no vertebra is called"),
            (["again", "--data", "INDEX", "--level", "L1"], 3, "no vertebra"),
            (["bad", "--data", "INDEX"], 3, "mm away from its scan"),
            (["goof", "--data", "INDEX"], 3, "there are good"),
            (["p3", "--data", "INDEX"], 3, "has 2 cases"),
            (["nowhere.nii.gz"], 3, "does not exist"),
            (["good", "--data", "INDEX", "--mask", "nowhere.nii.gz"], 3, "does not exist"),
        ],
    )
    def test_refuses(self, listed, tmp_path, capsys, arguments, code, words):  # noqa: PLR0917
        out = tmp_path / "a.png"
        filled = [str(listed) if argument == "INDEX" else argument for argument in arguments]
        assert main(["look", "-o", str(out), *filled]) == code
        assert words in capsys.readouterr().err
        assert not out.exists()

    def test_tells_how_to_see_scan_and_mask_alone_if_they_do_not_fit(self, listed, tmp_path):
        with pytest.raises(GeometryError, match=r"verse3d look .*ct\.nii\.gz"):
            verse3d.look("bad", data=listed, out=tmp_path / "a.png")
        with pytest.raises(DataError, match="no case"):
            verse3d.look("x", data=listed, out=tmp_path / "a.png")


@pytest.mark.skipif(not REAL.exists(), reason="the real scans are not here")
class TestRealScans:
    def test_verse_cases_show_their_levels(self, tmp_path, monkeypatch):
        words = shown_words(monkeypatch)
        for name in ("sub-verse006", "sub-verse008"):
            verse3d.look(name, data=REAL / "verse-mini", out=tmp_path / "a.png")
        assert "L4-L5 (2 vertebrae)" in words[0] and "100 x 86 x 37 voxels of 1 x 1 x 3 mm" in words[0]
        assert "T12-L5 (6 vertebrae)" in words[1] and "axes P-I-R" in words[1]

    def test_a_float64_oblique_mask_without_its_scan_is_shown_as_labels(self, tmp_path, monkeypatch):
        words = shown_words(monkeypatch)
        verse3d.look(REAL / "masks-only/sub-verse004_seg-vert_msk.nii.gz", out=tmp_path / "a.png")
        assert "T9-L5 (9 vertebrae)" in words[0] and "labels on black" in words[0] and "tilted by" in words[0]


@pytest.mark.parametrize(
    ("name", "title"), [("chest/ct.nii.gz", "chest/ct.nii.gz"), ("chest/a_ct.nii.gz", "a_ct.nii.gz")]
)
def test_a_file_whose_name_says_nothing_is_titled_with_its_folder(tmp_path, monkeypatch, name, title):
    path = spine().write(tmp_path / name)
    titles = []

    def draw(*arguments, **options):
        titles.append(options["title"])
        return look_figure(*arguments, **options)

    monkeypatch.setattr("verse3d.report.look.look_figure", draw)
    verse3d.look(path, out=tmp_path / "a.png")
    assert titles == [title]

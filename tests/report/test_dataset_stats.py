"""The numbers and figures of a data set, against numbers counted here in another way."""

import csv
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

import verse3d
from tests import scans
from tests.pace import first_quickly
from tests.scans import PIR, orientation, spine, turned
from verse3d.cli import main
from verse3d.core.labels import VERTEBRAE, vertebra
from verse3d.data.cases import Case, CaseIndex, write_index
from verse3d.data.quality.survey import HU_BINS, CaseSurvey
from verse3d.report.charts import draw_charts
from verse3d.report.dataset_stats import CaseStats, summarise, summed_up, write_table
from verse3d.report.histograms import nice_edges

REAL = Path(__file__).parents[2] / "../shared/data"
CHARTS = {"spacing", "size", "orientation", "field_of_view", "levels", "hu", "splits"}
OBLIQUE = turned(orientation((2, 0, 1), (1, -1, 1), (3.0, 0.8, 0.8), (19, 41, 37)))


def write_cases(folder, **changes):
    """A PIR case in train, an oblique flipped anisotropic one in test, a scan alone and a mask alone."""
    first, second = spine(0), spine(1, OBLIQUE, ids=(28, 20))
    paths = {name: folder / "in" / f"{name}.nii.gz" for name in ("a", "a_seg", "b", "b_seg", "c", "d_seg")}
    first.write(paths["a"], paths["a_seg"])
    second.write(paths["b"], paths["b_seg"])
    first.write(paths["c"])
    scans.write_nifti(paths["d_seg"], second.mask, OBLIQUE.affine, sform=0)
    cases = [
        Case("a", "p1", paths["a"], paths["a_seg"], split="train", part="verse19training", fold=1, relabel=((19, 18),)),
        Case("b", "p2", paths["b"], paths["b_seg"], split="test", fold=0),
        Case("c", "p1", paths["c"], split="train"),
        Case("d", "p3", None, paths["d_seg"]),
    ]
    write_index(folder / "cases.jsonl", CaseIndex(tuple(replace(case, **changes) for case in cases)))
    return folder / "cases.jsonl"


def read_table(path):
    with path.open(newline="") as handle:
        return {row["case"]: row for row in csv.DictReader(handle)}


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """The result of the awkward cases; read only."""
    folder = tmp_path_factory.mktemp("stats")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("verse3d.api.statistics.draw_charts", lambda cases: {})
        return verse3d.stats(write_cases(folder), out=folder / "stats")


@pytest.fixture
def undrawn(monkeypatch):
    """Drawing takes seconds; not every test looks at the figures."""
    monkeypatch.setattr("verse3d.api.statistics.draw_charts", lambda cases: {})


@pytest.fixture
def rows(told):
    return read_table(told.table)


class TestTable:
    def test_has_a_row_per_case_with_its_place_in_the_index(self, rows):
        assert list(rows) == ["a", "b", "c", "d"]
        places = [[row[name] for name in ("split", "fold", "part", "subject")] for row in rows.values()]
        assert places == [
            ["train", "1", "verse19training", "p1"],
            ["test", "0", "", "p2"],
            ["train", "", "", "p1"],
            ["", "", "", "p3"],
        ]

    def test_tells_the_grid_along_the_axes_of_the_file(self, rows):
        for name, grid in (("a", PIR), ("b", OBLIQUE), ("d", OBLIQUE)):
            row = rows[name]
            assert [int(row[f"voxels_{axis}"]) for axis in "ijk"] == list(grid.shape)
            found = [float(row[f"spacing_{axis}_mm"]) for axis in "ijk"]
            assert found == pytest.approx(nib.affines.voxel_sizes(grid.affine).tolist(), abs=1e-4)
            assert row["axes"] == "".join(nib.aff2axcodes(grid.affine))
            tilt = np.degrees(nib.affines.obliquity(grid.affine).max())
            assert float(row["oblique_degrees"]) == pytest.approx(tilt, abs=0.01)
        assert (rows["b"]["in_plane_mm"], rows["b"]["through_plane_mm"]) == ("0.8", "3.0")
        assert (rows["a"]["in_plane_mm"], rows["a"]["through_plane_mm"]) == ("2.75", "4.0")
        assert (rows["d"]["sform_code"], rows["d"]["qform_code"], rows["d"]["dtype"]) == ("0", "1", "uint8")

    def test_tells_the_field_of_view_along_the_patient(self, rows):
        # a grows along P, I, R with 26 x 2.5, 30 x 3 and 18 x 4 mm; b along S, L, A with 19 x 3, 41 x 0.8, 37 x 0.8 mm
        expected = {"a": (72, 65, 90), "b": (32.8, 29.6, 57)}
        for name, sizes in expected.items():
            found = [float(rows[name][f"field_of_view_{axis}_mm"]) for axis in ("rl", "ap", "si")]
            assert found == pytest.approx(sizes, abs=0.01)

    def test_tells_the_volume_of_every_level_after_corrections(self, rows):
        expected = {"a": {"T11": 19, "L1": 20, "L2": 21}, "b": {"T13": 28, "L1": 20}}
        for number, (name, levels) in enumerate(expected.items()):
            grid = (PIR, OBLIQUE)[number]
            mask = (spine(0) if name == "a" else spine(1, OBLIQUE, ids=(28, 20))).mask
            voxel_ml = np.prod(nib.affines.voxel_sizes(grid.affine)) / 1000
            for label in VERTEBRAE:
                value = rows[name][f"{label.name}_ml"]
                if label.name not in levels:
                    assert value == ""
                else:
                    expected_ml = np.count_nonzero(mask == levels[label.name]) * voxel_ml
                    assert float(value) == pytest.approx(expected_ml, abs=0.001)
            assert int(rows[name]["labelled_voxels"]) == np.count_nonzero(mask)
            assert int(rows[name]["vertebrae"]) == len(levels)
        assert (rows["a"]["levels"], rows["b"]["levels"]) == ("T11, L1-L2", "T13-L1")

    def test_tells_grey_values_inside_and_outside_to_a_bin(self, rows):
        for name, data in (("a", spine(0)), ("b", spine(1, OBLIQUE, ids=(28, 20)))):
            for part, chosen in (("inside", data.mask > 0), ("outside", data.mask == 0)):
                values = data.hu[chosen]
                assert float(rows[name][f"hu_{part}_mean"]) == pytest.approx(values.mean(), abs=25)
                for percent in (5, 50, 95):
                    expected = np.percentile(values, percent)
                    assert float(rows[name][f"hu_{part}_p{percent}"]) == pytest.approx(expected, abs=50)
            assert (float(rows[name]["hu_lowest"]), float(rows[name]["hu_highest"])) == (data.hu.min(), data.hu.max())

    def test_leaves_empty_what_is_not_known(self, rows):
        assert (rows["c"]["has_mask"], rows["c"]["vertebrae"], rows["c"]["hu_inside_mean"]) == ("0", "", "")
        assert (rows["d"]["has_mask"], rows["d"]["vertebrae"], rows["d"]["hu_lowest"]) == ("1", "2", "")
        assert all(row["problem"] == "" for row in rows.values())


def test_histograms_are_summed_up_as_their_voxels_would_be():
    random = np.random.default_rng(0)
    values = np.concatenate([random.normal(-900, 60, 5000), random.normal(40, 30, 9000), random.normal(700, 200, 700)])
    counts = np.histogram(values, -1200 + 50 * np.arange(HU_BINS + 1))[0]
    found = summed_up(counts.tolist())
    assert found.voxels == counts.sum()
    assert found.mean_hu == pytest.approx(values.mean(), abs=5)
    assert found.percentiles_hu == pytest.approx(np.percentile(values, [5, 50, 95]), abs=30)
    assert summed_up([0] * HU_BINS) is None and summed_up(()) is None
    single = [0] * HU_BINS
    single[30] = 7
    assert all(300 <= value <= 350 for value in (summed_up(single).mean_hu, *summed_up(single).percentiles_hu))


def test_the_odd_spacing_is_that_between_slices():
    def planes(*spacing):
        survey = CaseSurvey("a", (1, 1, 1), spacing, "PIR", extent_mm=spacing)
        return CaseStats(Case("a", "a", None), survey).plane_spacing_mm

    assert planes(1.0, 3.0, 1.0) == (1.0, 3.0)
    assert planes(0.5, 0.9, 0.9) == (0.9, 0.5)
    assert planes(1.0, 1.0, 1.0) == (1.0, 1.0)


class TestSummary:
    def test_counts_cases_subjects_masks_and_vertebrae_per_split(self, told):
        found = {each.split: (each.scans, each.subjects, each.masks, each.vertebrae) for each in told.summary}
        assert found == {"train": (2, 1, 1, 3), "test": (1, 1, 1, 2), "no split": (0, 1, 1, 2), "all": (3, 3, 3, 7)}
        levels = {each.split: each.levels for each in told.summary}
        assert levels["train"] == "T11, L1-L2" and levels["test"] == "T13-L1"
        assert told.failures == ()

    def test_has_no_total_for_a_single_split_and_no_numbers_of_nothing(self):
        [only] = summarise([CaseStats(Case("a", "a", None, split="test"), CaseSurvey("a"))])
        assert only.split == "test" and np.isnan(only.height_mm) and only.levels == ""


def texts_of(figure):
    """All texts that can be seen; matplotlib also keeps tick labels beyond the ends of an axis."""
    yield figure._suptitle
    for legend in (*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())):
        yield from legend.get_texts()
    for axes in figure.axes:
        yield from (axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts)
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            yield from (tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high)


def made(case="a", split=None, fold=None, levels=(20,), **changes):
    bins = [0] * HU_BINS
    bins[30] = 100
    facts = {
        "shape": (100, 200, 50),
        "spacing_mm": (1.0, 1.0, 2.5),
        "axis_codes": "PIR",
        "extent_mm": (125.0, 100.0, 200.0),
        "has_mask": True,
        "label_voxels": dict.fromkeys(levels, 9),
        "hu_inside": tuple(bins),
        "hu_outside": tuple(bins[::-1]),
    }
    return CaseStats(Case(case, case, Path("a.nii"), split=split, fold=fold), CaseSurvey(case, **(facts | changes)))


MANY = [
    made(f"case{n}", ("train", "validation", "test", None)[n % 4], n % 5, range(1, 26), oblique_degrees=n / 9)
    for n in range(40)
]
SETS = {
    "none": [],
    "one": [made()],
    "unread": [CaseStats(Case("a", "a", Path("a.nii")), CaseSurvey("a"))],
    "no mask": [made(has_mask=False, label_voxels={}, hu_inside=(), hu_outside=())],
    "few": MANY[:7],
    "many": MANY,
}


@pytest.mark.parametrize("name", first_quickly(SETS, 3))
def test_every_chart_is_drawn_of_any_set_without_texts_on_each_other(name):
    figures = draw_charts(SETS[name])
    assert set(figures) == CHARTS
    for figure in figures.values():
        figure.canvas.draw()
        assert "n = " in figure.get_suptitle()
        renderer = figure.canvas.get_renderer()
        seen = [(text.get_text(), text.get_window_extent(renderer)) for text in texts_of(figure) if text.get_text()]
        assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 + 1 for _, box in seen)
        crossing = [
            (one, other)
            for number, (one, a) in enumerate(seen)
            for other, b in seen[number + 1 :]
            if min(a.x1, b.x1) - max(a.x0, b.x0) > 2 and min(a.y1, b.y1) - max(a.y0, b.y0) > 2
        ]
        assert not crossing, figure.get_suptitle()


def test_the_bars_of_the_levels_are_the_counts_from_head_to_tail():
    figure = draw_charts([made("a", "train", levels=(7, 8, 28)), made("b", "test", levels=(28, 25))])["levels"]
    figure.canvas.draw()
    [axes] = figure.axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == [label.name for label in VERTEBRAE]
    heights = np.zeros(len(VERTEBRAE))
    for bar in axes.patches:
        heights[round(bar.get_x() + bar.get_width() / 2)] += bar.get_height()
    counted = {label.name: count for label, count in zip(VERTEBRAE, heights, strict=True) if count}
    assert counted == {"C7": 1, "T1": 1, "T13": 2, "L6": 1}
    assert "n = 5 vertebrae in 2 masks" in figure.get_suptitle()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["train (1)", "test (1)"]


def test_histograms_hold_every_case_once():
    figures = draw_charts(MANY)
    for name in ("spacing", "size", "field_of_view"):
        for axes in figures[name].axes:
            assert sum(bar.get_height() for bar in axes.patches) == len(MANY)
            assert "mm" in axes.get_xlabel() or "voxels" in axes.get_xlabel()


def test_few_cases_are_a_dot_each_stacked_where_they_would_hide_one_another():
    few = [made(f"c{n}", "train" if n else "test", spacing_mm=(1.0, 1.0, 3.0 if n < 3 else 1.0)) for n in range(4)]
    plane, through = draw_charts(few)["spacing"].axes
    assert not plane.patches and not through.patches
    assert sorted(line.get_ydata()[0] for line in plane.lines if line.get_marker() == "o") == [0.5, 1.5, 2.5, 3.5]
    dots = sorted((line.get_xdata()[0], line.get_ydata()[0]) for line in through.lines if line.get_marker() == "o")
    assert dots == [(1.0, 0.5), (3.0, 0.5), (3.0, 1.5), (3.0, 2.5)]


@pytest.mark.parametrize("values", [[3.0], [0.0, 0.0], [1.0, 3.0], [-5.0, 1e6], [0.7, 0.9, 3.0], [1e-7, 2e-7]])
def test_bins_are_few_and_hold_all_values(values):
    edges = nice_edges(values)
    assert len(edges) <= 26 and np.histogram(values, edges)[0].sum() == len(values)
    assert np.diff(nice_edges([5, 6, 7], whole=True)).min() >= 1


class TestCommand:
    def test_writes_table_and_figures_and_prints_a_summary(self, tmp_path, capsys):
        out = tmp_path / "out" / "stats"
        assert main(["-q", "stats", str(write_cases(tmp_path)), "--out", str(out), "--workers", "1"]) == 0
        assert {path.name for path in out.iterdir()} == {"stats.csv", *(f"{name}.png" for name in CHARTS)}
        for name in CHARTS:
            with Image.open(out / f"{name}.png") as picture:
                assert picture.size[0] == 1392 and 400 < picture.size[1] < 700
        shown = capsys.readouterr().out
        assert "train" in shown and "no split" in shown and "T13-L1" in shown
        assert str(out / "stats.csv") in shown.splitlines()

    def test_lists_what_cannot_be_read_and_goes_on(self, tmp_path, capsys, undrawn):
        index = write_cases(tmp_path)
        (tmp_path / "in" / "c.nii.gz").write_bytes(b"not a scan")
        scans.write_nifti(tmp_path / "in" / "a_seg.nii.gz", spine(0).mask, turned(PIR, (0, 0, 30)).affine)
        assert main(["-q", "stats", str(index), "--out", str(tmp_path / "out"), "--workers", "1"]) == 3
        shown = capsys.readouterr().out
        assert "c could not be used: " in shown and "not a gzip file" in shown
        assert "a could not be used: " in shown and "mm away" in shown
        rows = read_table(tmp_path / "out" / "stats.csv")
        assert "not a gzip file" in rows["c"]["problem"] and rows["c"]["voxels_i"] == ""
        assert "mm away" in rows["a"]["problem"] and rows["a"]["voxels_i"] == "26"
        assert rows["b"]["problem"] == "" and rows["b"]["vertebrae"] == "2"

    def test_reads_again_only_what_has_changed(self, tmp_path, monkeypatch, undrawn):
        index = write_cases(tmp_path)
        first = verse3d.stats(index, out=tmp_path / "one")
        assert (tmp_path / "cases.survey.jsonl").is_file()
        monkeypatch.setattr(
            "verse3d.data.quality.survey.survey_case", lambda case: pytest.fail(f"{case.case} was read again")
        )
        again = verse3d.stats(index, out=tmp_path / "two")
        assert again.table.read_text() == first.table.read_text()

    def test_keeps_nothing_if_told_so(self, tmp_path, undrawn):
        verse3d.stats(write_cases(tmp_path), out=tmp_path / "out", cache=False)
        assert not (tmp_path / "cases.survey.jsonl").exists()

    def test_refuses_what_is_not_there_and_writes_nothing(self, tmp_path, capsys):
        assert main(["stats", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")]) == 3
        assert "does not exist" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()

    def test_refuses_a_folder_that_is_a_file(self, tmp_path, capsys):
        (tmp_path / "file").write_text("mine")
        assert main(["stats", str(write_cases(tmp_path)), "--out", str(tmp_path / "file")]) == 3
        assert "cannot write" in capsys.readouterr().err
        assert (tmp_path / "file").read_text() == "mine"


def test_a_table_of_no_case_has_its_header(tmp_path):
    write_table(tmp_path / "a.csv", [])
    [header] = (tmp_path / "a.csv").read_text().splitlines()
    assert header.startswith("case,split,fold,part,subject,") and header.endswith(",problem,note")
    assert f",{vertebra(28).name}_ml," in header


@pytest.mark.skipif(not REAL.exists(), reason="the real scans are not here")
def test_the_real_scans_have_the_levels_and_spacings_that_are_known_of_them(tmp_path, undrawn):
    found = read_table(verse3d.stats(REAL / "verse-mini", out=tmp_path).table)
    facts = {name.removeprefix("sub-verse"): (row["levels"], row["axes"]) for name, row in found.items()}
    assert facts == {
        "005": ("L1-L5", "PIR"),
        "006": ("L4-L5", "PIR"),
        "007": ("T9-L3", "PIR"),
        "008": ("T12-L5", "PIR"),
    }
    assert float(found["sub-verse007"]["through_plane_mm"]) == pytest.approx(3, abs=0.01)

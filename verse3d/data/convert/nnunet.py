"""The raw data set of nnU-Net v2: ``Dataset001_VerSe/imagesTr|labelsTr|imagesTs|labelsTs``, ``dataset.json``, folds.

nnU-Net counts labels 0..n without gaps, so masks carry the ids of a ``LabelScheme`` (T13 is 26, not 28). It reads scans
with SimpleITK, so a scan that ITK would refuse or place elsewhere gets a corrected header, or is left out.
"""

import re
from collections.abc import Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from string import Template

import nibabel as nib
import numpy as np

from verse3d.core.errors import ConfigError, DataError, OutputError
from verse3d.core.files import write_json, write_text
from verse3d.core.labels import LabelScheme, label_scheme
from verse3d.core.volume import Volume, read_image, write_labels
from verse3d.data.cases import CaseIndex
from verse3d.data.convert.folder import OutputFolder
from verse3d.data.convert.itk import copy_with_header, itk_problem, repaired
from verse3d.data.convert.names import plain_name, unique_name
from verse3d.data.convert.records import CasePlan, CaseRecord, FileRecord, Layout
from verse3d.data.convert.sources import trusted_mask
from verse3d.data.nnunet_labels import DATASET_FILE, dataset_labels

_ENDING = ".nii.gz"
_SPLITS, _README = "splits_final.json", "README.md"
_README_TEMPLATE = Path(__file__).with_name("nnunet_readme.md")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def nnunet_format(
    index: CaseIndex, out: Path, *, scheme: str = "vertebrae", dataset_id: int = 1, name: str = "VerSe"
) -> Layout:
    """How the cases become ``OUT/Dataset<id>_<name>``.

    Cases with a mask are for training (``imagesTr``, ``labelsTr``) unless their split is "test"; test cases go to
    ``imagesTs`` and ``labelsTs``, cases without a mask to ``imagesTs``.

    Raises:
        ConfigError: the id is not 1 to 999, or the name or the scheme is impossible.
        DataError: a subject has cases in two folds.
        OutputError: ``out`` holds a data set of that id under another name.
    """
    if not 1 <= dataset_id <= 999:
        raise ConfigError(f"`dataset_id` must be 1 to 999, got {dataset_id}", option="dataset_id")
    if not _NAME.fullmatch(name):
        raise ConfigError(f"`name` {name!r} does not name a data set: use letters, digits, - and _", option="name")
    chosen = label_scheme(scheme)
    _refuse_torn_folds(index)
    folder = out / f"Dataset{dataset_id:03d}_{name}"
    if twins := sorted(path.name for path in out.glob(f"Dataset{dataset_id:03d}_*") if path.name != folder.name):
        raise OutputError(
            f"{out} holds {twins[0]} with the same id; nnU-Net would not know which one is meant",
            hint="choose another `dataset_id`",
            option="dataset_id",
        )
    # Two cases may get one name once it is made plain.
    taken: set[str] = set()
    plans = []
    for case in index:
        called = unique_name(plain_name(case.case), taken)
        # A test case never lies beside the training cases, even if it has a mask: nnU-Net trains on all of imagesTr.
        subset = "Tr" if case.mask is not None and case.split != "test" else "Ts"
        mask = f"labels{subset}/{called}{_ENDING}" if case.mask is not None else None
        plans.append(CasePlan(case, called, image=f"images{subset}/{called}_0000{_ENDING}", mask=mask))
    return Layout(
        name="nnunet",
        folder=folder,
        options={"scheme": scheme, "dataset_id": dataset_id, "name": name},
        plans=tuple(plans),
        extra=(DATASET_FILE, _SPLITS, _README),
        write_case=partial(_write_case, chosen),
        finish=partial(_finish, chosen),
    )


def _refuse_torn_folds(index: CaseIndex) -> None:
    fold_of: dict[str, int] = {}
    for case in index:
        if case.fold is not None and fold_of.setdefault(case.subject, case.fold) != case.fold:
            raise DataError(
                f"the cases of subject {case.subject} stand in folds {fold_of[case.subject]} and {case.fold}",
                hint="make the index again: verse3d index keeps all cases of a subject in one fold",
            )


def _write_case(scheme: LabelScheme, plan: CasePlan, out: OutputFolder) -> tuple[FileRecord, ...]:
    """Check a case, then write it. Holds its scan and its mask."""
    image = read_image(plan.case.image_path())
    levels = "" if scheme.name == "binary" else f"the scheme {scheme.name}"
    # Read before anything is written, so that a bad mask leaves no scan without one.
    mask = trusted_mask(plan.case, image, levels=levels) if plan.mask is not None else None
    record, header = _write_image(image, str(plan.image), out)
    if mask is None or plan.mask is None:
        return (record,)
    write_labels(out.target(plan.mask), scheme.network_from_verse(mask.array), like=header, scheme=scheme.name)
    note = f"ids of the scheme {scheme.name}"
    return record, FileRecord(plan.mask, str(mask.path), "rewritten", note=note)


def _write_image(image: Volume, path: str, out: OutputFolder) -> tuple[FileRecord, nib.Nifti1Header]:
    """Put the scan there, under a header that ITK reads; the mask needs the same one."""
    if isinstance(image.header, nib.Nifti2Header):
        raise DataError(f"{image.path} is NIfTI-2, which ITK does not read", hint="save it as NIfTI-1")
    # nnU-Net reads with SimpleITK: what ITK places elsewhere would be trained on mirrored or shifted.
    problem = itk_problem(image.header, image.geometry)
    if not problem:
        return FileRecord(path, str(image.path), out.place(image.path, path)), image.header
    header, moved_mm = repaired(image)
    copy_with_header(image.path, out.target(path), header)
    return FileRecord(path, str(image.path), "repaired", round(moved_mm, 4), problem), header


def _finish(scheme: LabelScheme, folder: Path, records: Sequence[CaseRecord]) -> tuple[str, ...]:
    """Write ``dataset.json``, ``splits_final.json`` and ``README.md``."""
    trained = [record for record in records if any(file.path.startswith("labelsTr/") for file in record.files)]
    write_json(folder / DATASET_FILE, _dataset(scheme, len(trained), folder.name))
    write_text(folder / _README, _readme(scheme, folder.name))
    folds, notes = _folds(trained)
    if folds:
        write_json(folder / _SPLITS, folds)
    if not trained:
        notes.append("no case is for training: nnU-Net can predict these scans, not train on them")
    return tuple(notes)


def _dataset(scheme: LabelScheme, training_cases: int, name: str) -> dict[str, object]:
    return {
        "name": name,
        "channel_names": {"0": "CT"},
        "labels": dataset_labels(scheme),
        "numTraining": training_cases,
        "file_ending": _ENDING,
        "label_scheme": scheme.name,
        "file_id_from_label": {str(number): file_id for number, file_id in _file_ids(scheme).items()},
    }


def _file_ids(scheme: LabelScheme) -> dict[int, int]:
    """nnU-Net's label -> the id that verse3d writes into masks (VerSe's, or 1 for any vertebra)."""
    numbers = np.arange(len(scheme.labels) + 1)
    return dict(enumerate(scheme.file_from_network(numbers).tolist()))


def _folds(trained: Sequence[CaseRecord]) -> tuple[list[dict[str, list[str]]], list[str]]:
    """nnU-Net's list of folds, from the index's folds or else from its split, and what to say about it."""
    # splits_final.json is a list, and nnU-Net's fold n is its n-th entry, so folds 1, 2, 4 of an index become 0, 1, 2:
    #
    #     [{"train": [...], "val": [...]},      fold 0: validated on the cases of the index's first fold
    #      {"train": [...], "val": [...]}, ...]
    by_fold: dict[int, list[CaseRecord]] = {}
    for record in trained:
        if record.fold is not None:
            by_fold.setdefault(record.fold, []).append(record)
    if by_fold:
        numbers = sorted(by_fold)
        numbered = list(chain.from_iterable(by_fold.values()))
        folds = [_fold(numbered, by_fold[number]) for number in numbers]
        notes = [f"fold {place} of {_SPLITS} is fold {n} of the index" for place, n in enumerate(numbers) if place != n]
        if others := len(trained) - len(numbered):
            notes.append(f"{others} training cases are in no fold, so nnU-Net uses them with fold 'all' only")
    else:
        # Without folds the index's own split is the only one: nnU-Net would draw five of cases, not of subjects.
        folds = [_fold(trained, [record for record in trained if record.split == "validation"])]
        notes = []
    if all(fold["train"] and fold["val"] for fold in folds):
        return folds, notes
    note = f"there is no {_SPLITS}: the training cases have neither folds nor a train and validation split"
    return [], [f"{note}; nnU-Net draws folds case by case, so a subject may stand on both sides"]


def _fold(all_records: Sequence[CaseRecord], validation: Sequence[CaseRecord]) -> dict[str, list[str]]:
    held_out = {record.name for record in validation}
    names = sorted(record.name for record in all_records)
    return {"train": [name for name in names if name not in held_out], "val": sorted(held_out)}


def _readme(scheme: LabelScheme, name: str) -> str:
    rows = "".join(
        f"| {number} | {label.name} | {_file_ids(scheme)[number]} |\n"
        for number, label in enumerate(scheme.labels, start=1)
    )
    number = int(name.removeprefix("Dataset").partition("_")[0])
    page = Template(_README_TEMPLATE.read_text(encoding="utf-8"))
    return page.substitute(name=name, rows=rows, number=number, splits=_SPLITS)

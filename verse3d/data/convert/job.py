"""Converting an index case by case: a bad case is left out and listed, a full disk ends it."""

from dataclasses import asdict, replace

from verse3d.core.caseerrors import CASE_ERRORS, keep_or_raise, reason_of
from verse3d.core.errors import Verse3dError
from verse3d.core.logs import Progress, logger, no_progress
from verse3d.data.cases import CaseIndex
from verse3d.data.convert.folder import OutputFolder, claim, finish
from verse3d.data.convert.records import CasePlan, CaseRecord, Conversion, Layout

_log = logger(__name__)


def convert_cases(
    index: CaseIndex, form: Layout, *, links: bool = True, overwrite: bool = False, progress: Progress = no_progress
) -> Conversion:
    """Write all cases in a layout, and ``conversion.json`` with what became of each.

    Args:
        index: the cases that ``form`` was made for.
        form: the layout.
        links: link to scans (and to masks that need no change) rather than copy them.
        overwrite: remove what an earlier conversion wrote into the same folder.
        progress: told about every case.

    Raises:
        OutputError: the folder is not ours to fill, or cannot be written to. What was written until then is listed in
            ``conversion.json``, and the next call with ``overwrite`` starts again.
        DataError: a source lies in the output folder.
    """
    sources = [path for case in index for path in (case.image, case.mask, case.centroids) if path is not None]
    planned = [*form.extra, *(path for plan in form.plans for path in plan.paths)]
    claim(form.folder, planned, sources=sources, overwrite=overwrite)
    out = OutputFolder(form.folder, links)
    records = []
    for number, plan in enumerate(form.plans):
        progress("cases", number, len(form.plans))
        records.append(_convert(form, plan, out))
    progress("cases", len(form.plans), len(form.plans))
    result = Conversion(form.folder, tuple(records), form.finish(form.folder, records))
    _write_report(form, result, links=links)
    return result


def _convert(form: Layout, plan: CasePlan, out: OutputFolder) -> CaseRecord:
    case = plan.case
    record = CaseRecord(
        case.case,
        plan.name,
        case.subject,
        case.split,
        case.fold,
        "written",
        split_origin=case.split_origin,
        automatic=case.automatic,
    )
    try:
        return replace(record, files=form.write_case(plan, out))
    except CASE_ERRORS as error:
        keep_or_raise(error)
        reason = error.message if isinstance(error, Verse3dError) else reason_of(error)
        _log.warning("%s is left out: %s", case.case, reason)
        return replace(record, status="left out", reason=reason)


def _write_report(form: Layout, result: Conversion, *, links: bool) -> None:
    written = [file.path for record in result.cases for file in record.files]
    written += [name for name in form.extra if (form.folder / name).exists()]
    content = {
        "to": form.name,
        "options": {**form.options, "links": links},
        "notes": list(result.notes),
        "cases": [asdict(record) for record in result.cases],
    }
    finish(form.folder, written, content)

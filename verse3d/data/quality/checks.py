"""Looking for what would spoil a training or a score: unreadable files, wrong labels, masks on other grids ..."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verse3d.core.logs import Progress, no_progress
from verse3d.data.cases import Case, CaseIndex
from verse3d.data.quality.findings import SEVERITIES, Finding, Severity
from verse3d.data.quality.fixes import FixReport
from verse3d.data.quality.record import CaseSurvey
from verse3d.data.quality.survey import survey_cases
from verse3d.data.quality.voxels import fingerprint

__all__ = ["CaseFacts", "CheckReport", "Finding", "Severity", "check_cases", "fingerprint"]


@dataclass(frozen=True)
class CaseFacts:
    """What a case is made of, as text for a table; empty where it could not be read.

    Attributes:
        case: its name.
        shape: voxels along the axes, e.g. "103x180x106".
        spacing_mm: e.g. "1x1x3".
        axes: the directions that the axes grow towards, e.g. "PIR".
        stored: voxel type and the affine of the header that counts, e.g. "float32, qform".
        levels: the labelled vertebrae, e.g. "T12-L5", or "binary".
    """

    case: str
    shape: str = ""
    spacing_mm: str = ""
    axes: str = ""
    stored: str = ""
    levels: str = ""


@dataclass(frozen=True)
class CheckReport:
    """The facts of every case, everything that was found, and what was repaired on request."""

    facts: tuple[CaseFacts, ...]
    findings: tuple[Finding, ...]
    fixed: FixReport | None = None

    @property
    def worst(self) -> Severity | None:
        """The highest severity among the findings."""
        found = {finding.severity for finding in self.findings}
        return next((severity for severity in SEVERITIES if severity in found), None)

    @property
    def counts(self) -> dict[Severity, int]:
        """How many findings there are of each severity."""
        return {severity: sum(finding.severity == severity for finding in self.findings) for severity in SEVERITIES}

    def to_dict(self) -> dict[str, Any]:
        """For JSON: ``{"cases": 374, "counts": {"error": 0, ...}, "findings": [{"case": ...}, ...]}``."""
        findings = [finding.to_dict() for finding in self.findings]
        return {"cases": len(self.facts), "counts": self.counts, "findings": findings}


def check_cases(
    index: CaseIndex, progress: Progress = no_progress, *, workers: int | None = 1, cache: Path | None = None
) -> CheckReport:
    """Read every file of every case and report what is wrong. Nothing is changed, nothing stops it.

    Args:
        index: the cases.
        progress: told about every case.
        workers: processes that read, see ``survey_cases``.
        cache: what was measured before, see ``survey_cases``.
    """
    facts, findings = [], []
    seen: dict[str, str] = {}
    # They come in the order of the index, whoever has read them.
    surveys = survey_cases(index.cases, workers=workers, cache=cache, progress=progress)
    for case, survey in zip(index, surveys, strict=True):
        facts.append(_facts(survey))
        findings.extend([*survey.findings, *_check_duplicate(case, survey, seen)])
    return CheckReport(tuple(facts), tuple(findings))


def _facts(survey: CaseSurvey) -> CaseFacts:
    if survey.shape is None or survey.spacing_mm is None or survey.stored is None:
        return CaseFacts(survey.case)
    dtype, sform, qform = survey.stored
    return CaseFacts(
        survey.case,
        shape="x".join(str(size) for size in survey.shape),
        spacing_mm="x".join(f"{size:.4g}" for size in survey.spacing_mm),
        axes=survey.axis_codes,
        # Which of a NIfTI header's two affines counts: the sform, if it has a code.
        stored=f"{dtype}, {'sform' if sform else 'qform' if qform else 'no affine'}",
        levels=_levels(survey) if survey.has_mask else "",
    )


def _levels(survey: CaseSurvey) -> str:
    if survey.is_binary:
        return "binary"
    names = survey.levels
    if not names:
        return "none"
    return names[0] if len(names) == 1 else f"{names[0]}-{names[-1]}"


def _check_duplicate(case: Case, survey: CaseSurvey, seen: dict[str, str]) -> Iterator[Finding]:
    if not survey.fingerprint:
        return
    if survey.fingerprint in seen:
        yield Finding(
            case.case,
            "warning",
            "duplicate",
            f"{case.image} holds the same voxels as case {seen[survey.fingerprint]}",
            "keep one of them, or make sure that both are in the same split",
        )
    # The first one is named by all that follow.
    seen.setdefault(survey.fingerprint, case.case)

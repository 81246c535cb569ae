"""A USD file -> what OpenUSD's and NVIDIA's validators say about it.

OpenUSD's own validators come with usd-core. NVIDIA's (PyPI `usd-validation-nvidia`) are used when
installed; only rules that fit a static world are enabled, by name. Their default set changes with
whatever plugins are installed, and the splat rule VG.035 is not in it.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

CAMERA_FILE = "cameras.usda"
"""Text on purpose, so that people can read it; UsdAsciiPerformanceChecker wants crate from five
time samples on, and is heard for every other file."""

NVIDIA_RULES = (
    "GaussianSplatSchemaChecker",  # VG.035: the splat prim, attribute by attribute.
    "ColliderChecker", "RigidBodyChecker", "MassChecker", "PhysicsJointChecker",
    "ArticulationChecker",
    "ValidateTopologyChecker", "ZeroAreaFaceChecker", "UnusedMeshTopologyChecker",
    "SubdivisionSchemeChecker", "NormalsExistChecker", "NormalsValidChecker",
    "NormalsWindingsChecker", "ExtentsChecker",
    "StageMetadataChecker", "UnitsInMetersChecker", "UpAxisZChecker", "DefaultPrimChecker",
    "TypeChecker", "KindChecker", "PrimEncapsulationChecker", "MissingReferenceChecker",
    "AnchoredAssetPathsChecker", "UsdAsciiPerformanceChecker",
)  # fmt: skip
"""Rules that a world must pass. ManifoldChecker and WeldChecker are not among them: a surface of
what cameras saw ends where they stopped looking, and tiles share their borders."""


def usd_problems(file: Path) -> list[tuple[str, str, str]]:
    """Errors of OpenUSD's own validators on a composed file: (validator, prim path, message)."""
    from pxr import Usd, UsdValidation

    stage = Usd.Stage.Open(str(file))
    validators = UsdValidation.ValidationRegistry().GetOrLoadAllValidators()
    found = []
    for error in UsdValidation.ValidationContext(validators).Validate(stage):
        places = [site.GetPrim() for site in error.GetSites() if site.IsPrim()]
        places += [site.GetProperty() for site in error.GetSites() if site.IsProperty()]
        where = str(places[0].GetPath()) if places else "/"
        found.append((error.GetName(), where, error.GetMessage()))
    return found


def nvidia_available() -> bool:
    """Whether `usd-validation-nvidia` is installed."""
    return find_spec("usd_validation_nvidia") is not None


def nvidia_problems(file: Path) -> list[tuple[str, str, str]]:
    """Issues of NVIDIA_RULES on a composed file in all its variants: (rule, prim path, message).

    Empty when the package is not installed; ask `nvidia_available` first.
    """
    if not nvidia_available():
        return []
    import usd_validation_nvidia

    engine = usd_validation_nvidia.ValidationEngine(init_rules=False)
    for name in NVIDIA_RULES:
        # Rules come and go between releases; one that is gone must not hide the others.
        rule = getattr(usd_validation_nvidia, name, None)
        if rule is not None:
            engine.enable_rule(rule)
    found = []
    for issue in engine.validate(str(file)).issues():
        where = issue.at.as_str() if hasattr(issue.at, "as_str") else str(issue.at or "/")
        code = getattr(issue.requirement, "code", None)
        name = issue.rule.__name__ if issue.rule else "engine"
        if name == "UsdAsciiPerformanceChecker" and CAMERA_FILE in issue.message:
            continue
        found.append((f"{name} {code}" if code else name, where, issue.message))
    return found

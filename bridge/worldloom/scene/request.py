"""A request for a world: inputs by hash, a camera path and options -> one canonical hash.

The hash names the job's result: the same request to the same server is the same world.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from worldloom.scene.errors import InvalidRequest
from worldloom.scene.limits import Limits
from worldloom.scene.path import CameraPath

REQUEST_SCHEMA = "worldloom.request/1"
SHA256 = re.compile(r"[0-9a-f]{64}")
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")

Role = Literal["photo", "depth", "capture"]
Quality = Literal["draft", "standard", "high"]
QUALITIES: tuple[Quality, ...] = ("draft", "standard", "high")
FORMATS = ("ply", "glb", "spz", "vdb")
"""Exchange files that a request may ask for besides the USD layers."""
FLOATS = {"fx", "fy", "cx", "cy"}


@dataclass(frozen=True)
class InputRef:
    """One uploaded file, named by its content."""

    role: Role
    sha256: str
    """Lower-case hex digest of all bytes."""
    bytes: int
    """Size of the file."""
    media: str = ""
    """File name suffix without the dot (`png`, `npy`, `exr`), a hint for the decoder."""


@dataclass(frozen=True)
class Intrinsics:
    """Known camera matrix of the photo."""

    fx: float
    fy: float
    cx: float
    cy: float
    """Focal lengths and principal point in pixels, pixel centres at +0.5."""
    width: int
    height: int
    """Image size in pixels that the numbers belong to (upright)."""


@dataclass(frozen=True)
class ScaleHint:
    """What the user knows about size: one of the two."""

    camera_height_m: float | None = None
    """Height of the camera above the floor [m]."""
    pixels: tuple[tuple[float, float], tuple[float, float]] | None = None
    """Two image points (u, v) of the upright photo [px] ..."""
    distance_m: float | None = None
    """... and the distance between the surfaces seen there [m]."""


@dataclass(frozen=True)
class OutputOptions:
    """What to make of the world."""

    sh_degree: int = 0
    """Spherical harmonics degree of the splats: 0 or 3."""
    collider_triangles: int = 150_000
    """Triangle budget of the whole collider."""
    formats: tuple[str, ...] = ()
    """Exchange files to add at the end: `ply`, `glb`, ..."""
    refine_steps: int = 0
    """Steps of photometric refinement of the splats at the end; 0 = none."""


@dataclass(frozen=True)
class WorldRequest:
    """Everything that decides what a world looks like."""

    engine: str
    """Preset name: `preview`, `truth`, `lyra2`, ..."""
    path: CameraPath
    photo: InputRef | None = None
    depth: InputRef | None = None
    capture: InputRef | None = None
    scene: str | None = None
    """Name of a truth scene, for the engine `truth`."""
    prompts: dict[int, str] = field(default_factory=dict)
    """Prompt from each frame on."""
    seed: int = 1
    quality: Quality = "standard"
    intrinsics: Intrinsics | None = None
    scale: ScaleHint | None = None
    output: OutputOptions = OutputOptions()

    def inputs(self) -> tuple[InputRef, ...]:
        """The uploads that this request names."""
        return tuple(ref for ref in (self.photo, self.depth, self.capture) if ref is not None)

    def check(self, limits: Limits, engines: tuple[str, ...] | None = None) -> None:
        """Refuse what cannot be made.

        Args:
            limits: The bounds to hold.
            engines: Known preset names; None leaves the name unchecked.

        Raises:
            InvalidRequest: What is wrong, its value, the limit and the remedy.
            InvalidCameraPath: The same for the path.
        """
        _check_engine(self, engines)
        _check_inputs(self, limits)
        _check_options(self, limits)
        _check_prompts(self.prompts, limits)
        self.path.check(limits)

    def to_json(self) -> dict[str, Any]:
        """The request as a plain dictionary."""
        data = asdict(self)
        data["path"] = self.path.to_json()
        data["prompts"] = {str(key): self.prompts[key] for key in sorted(self.prompts)}
        data["schema"] = REQUEST_SCHEMA
        # 1 and 1.0 are the same number to the user, so they must not make two hashes.
        for key in FLOATS & set(data["intrinsics"] or {}):
            data["intrinsics"][key] = float(data["intrinsics"][key])
        if data["scale"] is not None:
            data["scale"] = _as_floats(data["scale"])
        return json.loads(json.dumps(data))

    def canonical(self) -> bytes:
        """The one byte string of this request: sorted keys, no spaces, shortest floats."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return text.encode("utf-8")

    def hash(self) -> str:
        """The sha256 of `canonical()` in hex."""
        return hashlib.sha256(self.canonical()).hexdigest()

    @staticmethod
    def from_json(data: dict[str, Any]) -> WorldRequest:
        """Read a request dictionary.

        Raises:
            InvalidRequest: The schema is another, or a field is missing or of the wrong type.
        """
        if not isinstance(data, dict) or data.get("schema") != REQUEST_SCHEMA:
            found = data.get("schema") if isinstance(data, dict) else type(data).__name__
            raise InvalidRequest(f"request has schema {found!r}; expected {REQUEST_SCHEMA!r}")
        try:
            return _request_from(data)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InvalidRequest(
                f"request cannot be read: {type(error).__name__} {error}"
            ) from error

    @staticmethod
    def from_bytes(data: bytes) -> WorldRequest:
        """Read the JSON bytes of a request.

        Raises:
            InvalidRequest: Not JSON, or not a request.
        """
        try:
            return WorldRequest.from_json(json.loads(data))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise InvalidRequest(f"request is not JSON: {error}") from error


def _as_floats(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_floats(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_floats(item) for item in value]
    return value if value is None else float(value)


def _request_from(data: dict[str, Any]) -> WorldRequest:
    def ref(key: str) -> InputRef | None:
        return None if data.get(key) is None else InputRef(**data[key])

    hint = data.get("scale")
    if hint is not None:
        pixels = hint.get("pixels")
        pair = None if pixels is None else tuple(tuple(float(x) for x in p) for p in pixels)
        hint = ScaleHint(hint.get("camera_height_m"), pair, hint.get("distance_m"))
    output = dict(data.get("output") or {})
    if "formats" in output:
        output["formats"] = tuple(output["formats"])
    known = data.get("intrinsics")
    return WorldRequest(
        engine=str(data["engine"]),
        path=CameraPath.from_json(data["path"]),
        photo=ref("photo"),
        depth=ref("depth"),
        capture=ref("capture"),
        scene=data.get("scene"),
        prompts={int(key): str(value) for key, value in (data.get("prompts") or {}).items()},
        seed=int(data.get("seed", 1)),
        quality=data.get("quality", "standard"),
        intrinsics=None if known is None else Intrinsics(**known),
        scale=hint,
        output=OutputOptions(**output),
    )


def _check_engine(request: WorldRequest, engines: tuple[str, ...] | None) -> None:
    if engines is not None and request.engine not in engines:
        raise InvalidRequest(
            f"unknown engine preset {request.engine!r}; this server has {', '.join(engines)}",
            field="engine",
        )
    needs = {"truth": ("scene", request.scene), "capture": ("capture", request.capture)}
    name, value = needs.get(request.engine, ("photo", request.photo))
    if value is None:
        raise InvalidRequest(
            f"engine {request.engine!r} needs a {name} and the request has none", field=name
        )
    extra = request.depth or request.photo
    if request.engine == "capture" and extra is not None:
        raise InvalidRequest(
            f"engine 'capture' takes no {extra.role}: the capture brings its own. Leave it out",
            field=extra.role,
        )
    if request.scene is not None and not NAME.fullmatch(request.scene):
        raise InvalidRequest(
            f"scene name {request.scene[:80]!r} is not a name; use letters, digits, - and _",
            field="scene",
        )


def _check_inputs(request: WorldRequest, limits: Limits) -> None:
    caps = {
        "photo": limits.photo_bytes,
        "depth": limits.depth_bytes,
        "capture": limits.capture_bytes,
    }
    for ref in request.inputs():
        if not SHA256.fullmatch(ref.sha256):
            raise InvalidRequest(
                f"{ref.role} has sha256 {ref.sha256[:80]!r}; 64 lower-case hex digits are needed",
                field=ref.role,
            )
        if not 0 < ref.bytes <= caps[ref.role]:
            raise InvalidRequest(
                f"{ref.role} has {ref.bytes} bytes; between 1 and {caps[ref.role]} are possible. "
                "Send another file",
                field=ref.role,
            )


def _check_options(request: WorldRequest, limits: Limits) -> None:
    if request.quality not in QUALITIES:
        raise InvalidRequest(
            f"unknown quality {request.quality!r}; use {', '.join(QUALITIES)}", field="quality"
        )
    if not 0 <= request.seed < 2**31:
        raise InvalidRequest(f"seed is {request.seed}; use 0 to 2147483647", field="seed")
    output = request.output
    if output.sh_degree not in (0, 3):
        raise InvalidRequest(f"sh_degree is {output.sh_degree}; use 0 or 3", field="output")
    if not 1000 <= output.collider_triangles <= limits.collider_triangles:
        raise InvalidRequest(
            f"collider_triangles is {output.collider_triangles}; use 1000 to "
            f"{limits.collider_triangles}",
            field="output",
        )
    if not 0 <= output.refine_steps <= limits.refine_steps:
        raise InvalidRequest(
            f"refine_steps is {output.refine_steps}; use 0 to {limits.refine_steps}",
            field="output",
        )
    for name in output.formats:
        if name not in FORMATS:
            raise InvalidRequest(
                f"unknown output format {name!r}; use {', '.join(FORMATS)}", field="output"
            )
    known = request.intrinsics
    if known is not None and not (min(known.fx, known.fy, known.width, known.height) > 0):
        raise InvalidRequest(
            f"intrinsics have focal lengths {known.fx:g}, {known.fy:g} px for a "
            f"{known.width} x {known.height} image; all must be above zero",
            field="intrinsics",
        )
    if request.scale is not None:
        _check_scale(request.scale)


def _check_scale(hint: ScaleHint) -> None:
    height = hint.camera_height_m
    if height is not None and not 0.05 <= height <= 100.0:
        raise InvalidRequest(
            f"camera height is {height:g} m; 0.05 to 100 m are possible", field="scale"
        )
    if (hint.pixels is None) != (hint.distance_m is None):
        raise InvalidRequest(
            "a scale by distance needs both the two pixels and the distance", field="scale"
        )
    if hint.distance_m is not None and not 0.001 <= hint.distance_m <= 1000.0:
        raise InvalidRequest(
            f"distance is {hint.distance_m:g} m; 0.001 to 1000 m are possible", field="scale"
        )


def _check_prompts(prompts: dict[int, str], limits: Limits) -> None:
    if len(prompts) > limits.prompts:
        raise InvalidRequest(
            f"there are {len(prompts)} prompts; the limit is {limits.prompts}", field="prompts"
        )
    for frame, text in prompts.items():
        if frame < 0:
            raise InvalidRequest(
                f"a prompt starts at frame {frame}; use 0 or more", field="prompts"
            )
        if len(text) > limits.prompt_chars:
            raise InvalidRequest(
                f"the prompt of frame {frame} has {len(text)} characters; the limit is "
                f"{limits.prompt_chars}. Shorten it",
                field="prompts",
            )

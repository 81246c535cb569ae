"""Robot profiles: one YAML file each -> the numbers that navigation needs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from worldloom.scene.errors import InvalidRequest

POSITIVE = (
    "radius", "height", "max_step", "max_slope_deg", "v_max", "w_max", "a_max", "alpha_max",
)  # fmt: skip


@dataclass(frozen=True)
class RobotProfile:
    """Body, limits and simulation asset of a robot."""

    name: str
    title: str
    radius: float
    """Radius of the footprint [m]."""
    height: float
    """Height of the body above the floor [m]."""
    max_step: float
    """Highest step that it climbs [m]."""
    max_slope_deg: float
    """Steepest floor, measured over the footprint [degrees]."""
    v_max: float
    """Forward speed [m/s]."""
    w_max: float
    """Turn rate [rad/s]."""
    a_max: float
    """Forward acceleration [m/s^2]."""
    alpha_max: float
    """Angular acceleration [rad/s^2]."""
    drive: str
    """`diff`, `omni` or `ackermann`."""
    wheel_base: float
    wheel_radius: float
    usd: str
    """Asset path below the Isaac asset root; empty when there is none."""
    articulation_root: str
    wheel_joints: tuple[str, ...]
    spawn_height: float
    """Height of the base above the floor at the start [m]."""

    def to_json(self) -> dict[str, Any]:
        """The profile as a plain dictionary."""
        return asdict(self) | {"wheel_joints": list(self.wheel_joints)}


def robot_names() -> list[str]:
    """Profiles that come with the package."""
    folder = resources.files("worldloom.tasks") / "robots"
    return sorted(p.name[:-5] for p in folder.iterdir() if p.name.endswith(".yaml"))


def load_robot(name: str) -> RobotProfile:
    """A profile by name, or from a YAML file of the user's.

    Raises:
        InvalidRequest: There is none, or it is malformed.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    file = Path(name)
    if file.suffix in (".yaml", ".yml") and file.is_file():
        text = file.read_text("utf-8")
    elif name in robot_names():
        text = (resources.files("worldloom.tasks") / "robots" / f"{name}.yaml").read_text("utf-8")
    else:
        raise InvalidRequest(
            f"unknown robot {name!r}; profiles are {', '.join(robot_names())}, or give a .yaml "
            "file",
            field="robot",
        )
    try:
        data: Any = OmegaConf.to_container(OmegaConf.create(text), resolve=True)
    except OmegaConfBaseException as error:
        raise InvalidRequest(
            f"robot profile {name} is malformed: {error}", field="robot"
        ) from error
    return robot_from(data)


def robot_from(data: Any) -> RobotProfile:
    """A profile from plain numbers, checked.

    Raises:
        InvalidRequest: A key is missing, unknown, or has a value that no robot can have.
    """
    try:
        profile = RobotProfile(**{**data, "wheel_joints": tuple(data.get("wheel_joints", ()))})
    except (TypeError, AttributeError) as error:
        raise InvalidRequest(f"robot profile is malformed: {error}", field="robot") from error
    for key in POSITIVE:
        value = getattr(profile, key)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 100:
            raise InvalidRequest(
                f"robot {profile.name} has {key} = {value!r}; it must be a number above 0 and "
                "below 100",
                field=f"robot.{key}",
            )
    return profile

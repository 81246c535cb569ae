"""A physics-only stage as USD text: the collider tiles of a world, a robot body, loose spheres.

The splats never enter the physics process: the stage references the collision files and nothing
else of the world. It is plain text, so neither parent nor child needs a USD library to write it.

The robot is a free rigid body that is driven by its velocity:

    /World/Robot         rigid body; origin = footprint centre on the floor, X forward
        hull             cylinder of the profile's radius, from `max_step` up to its height
        foot_0 ... 5     frictionless spheres on a ring, the lowest point at z = 0

Only the hull reports contacts. A floor, a ramp or a step that the robot may climb touches the feet;
whatever touches the hull is an obstacle. So floor and obstacle need no guess from normals, and the
meaning of a contact is the kinematic simulator's own. A velocity-driven body was chosen over a
wheeled articulation because it needs no wheel data, cannot slip, and reproduces bit by bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from worldloom.tasks.sim_base import GRAVITY, STEP_SLACK_M, RobotBody

ROBOT, HULL, SPHERES = "/World/Robot", "/World/Robot/hull", "/World/Spheres"
FEET = 6
MASS_KG = 10.0  # Any mass will do: velocity is prescribed, and contacts are judged by place.
FOOT_STEPS = 1.5  # Foot radius in units of `max_step`: a sphere climbs less than its radius.
FOOT_MIN_M = 0.015
CONTACT_OFFSET_M = 0.002  # PhysX's own 2 cm would drag every triangle under the hull along.
COLLIDER_APIS = ("PhysxCollisionAPI", "MaterialBindingAPI")
TIP_DAMPING = 4.0  # Angular damping [1/s] that settles rocking between feet on a rough floor.
LOCK_ALL = 7  # Bits x, y, z. PhysX has no rolling friction: a ball would roll off any floor.


@dataclass(frozen=True)
class BodyShape:
    """Sizes of the robot that the stage is made from; plain numbers, so a pipe can carry them."""

    radius: float
    height: float
    max_step: float

    @staticmethod
    def of(robot: RobotBody) -> BodyShape:
        """The sizes of a robot profile."""
        return BodyShape(robot.radius, robot.height, robot.max_step)


def robot_stage(tiles: Sequence[Path], body: BodyShape) -> str:
    """USD text of the collider with one robot.

    Args:
        tiles: Collision layers of the world, absolute paths.
        body: Size of the robot.
    """
    return _stage(tiles, _robot(body))


def sphere_stage(tiles: Sequence[Path], count: int, radius: float) -> str:
    """USD text of the collider with `count` loose spheres of `radius` [m] high above it."""
    spheres = "".join(_sphere(number, radius) for number in range(count))
    return _stage(tiles, f'\n    def Scope "Spheres"\n    {{{spheres}\n    }}')


def _sphere(number: int, radius: float) -> str:
    body_apis = "PhysicsRigidBodyAPI", "PhysicsMassAPI", "PhysxRigidBodyAPI"
    return f"""
        def Sphere "s_{number:04d}" ({_api(*body_apis, "PhysicsCollisionAPI")})
        {{
            double radius = {radius}
            float3[] extent = {_extent(radius, radius, radius)}
            float physics:mass = 0.05
            int physxRigidBody:lockedRotAxis = {LOCK_ALL}
            float physxRigidBody:sleepThreshold = 0
            double3 xformOp:translate = (0, 0, {1000 + number})
            uniform token[] xformOpOrder = ["xformOp:translate"]
        }}"""


def _stage(tiles: Sequence[Path], content: str) -> str:
    references = "".join(
        f"""
        def Xform "tile_{number:04d}" (
            prepend references = @{tile}@
        )
        {{
            over "Mesh" ({_api("PhysxCollisionAPI")})
            {{
                float physxCollision:contactOffset = {CONTACT_OFFSET_M}
                float physxCollision:restOffset = 0
            }}
        }}"""
        for number, tile in enumerate(tiles)
    )
    return f"""#usda 1.0
(
    defaultPrim = "World"
    kilogramsPerUnit = 1
    metersPerUnit = 1
    upAxis = "Z"
)

def Xform "World"
{{
    def PhysicsScene "PhysicsScene" ({_api("PhysxSceneAPI")})
    {{
        vector3f physics:gravityDirection = (0, 0, -1)
        float physics:gravityMagnitude = {GRAVITY}
        bool physxScene:enableEnhancedDeterminism = 1
        bool physxScene:enableGPUDynamics = 0
        uniform token physxScene:broadphaseType = "MBP"
    }}

    def Xform "Collision"
    {{{references}
    }}
{content}
}}
"""


def _robot(body: BodyShape) -> str:
    low, radius = body.max_step + STEP_SLACK_M, body.radius
    height = max(body.height - low, 0.02)
    foot = max(FOOT_STEPS * body.max_step, FOOT_MIN_M)
    ring = max(radius - foot, 0.5 * radius)
    side = MASS_KG * (3 * radius**2 + height**2) / 12
    inertia = _tuple(side, side, MASS_KG * radius**2 / 2)
    body_apis = "PhysicsRigidBodyAPI", "PhysicsMassAPI", "PhysxRigidBodyAPI"
    return f"""
    def Material "Slick" ({_api("PhysicsMaterialAPI", "PhysxMaterialAPI")})
    {{
        float physics:staticFriction = 0
        float physics:dynamicFriction = 0
        float physics:restitution = 0
        uniform token physxMaterial:frictionCombineMode = "min"
        uniform token physxMaterial:restitutionCombineMode = "min"
    }}

    def Material "Rubber" ({_api("PhysicsMaterialAPI")})
    {{
        float physics:staticFriction = 0.8
        float physics:dynamicFriction = 0.8
        float physics:restitution = 0
    }}

    def Xform "Robot" ({_api(*body_apis, "PhysxContactReportAPI")})
    {{
        float physics:mass = {MASS_KG}
        point3f physics:centerOfMass = {_tuple(0, 0, foot)}
        float3 physics:diagonalInertia = {inertia}
        quatf physics:principalAxes = (1, 0, 0, 0)
        float physxRigidBody:sleepThreshold = 0
        float physxRigidBody:stabilizationThreshold = 0
        float physxRigidBody:angularDamping = {TIP_DAMPING}
        float physxRigidBody:linearDamping = 0
        float physxContactReport:threshold = 0
        double3 xformOp:translate = (0, 0, 1000)
        quatf xformOp:orient = (1, 0, 0, 0)
        uniform token[] xformOpOrder = ["xformOp:translate", "xformOp:orient"]
{_hull(radius, low, height)}
{"".join(_foot(i, foot, ring) for i in range(FEET))}
    }}"""


def _hull(radius: float, low: float, height: float) -> str:
    apis = _api("PhysicsCollisionAPI", "PhysxContactReportAPI", *COLLIDER_APIS)
    return f"""
        def Cylinder "hull" ({apis})
        {{
            uniform token axis = "Z"
            double radius = {radius:.6f}
            double height = {height:.6f}
            float3[] extent = {_extent(radius, radius, height / 2)}
            float physxContactReport:threshold = 0
            {_collider("Rubber", _tuple(0, 0, low + height / 2))}
        }}"""


def _foot(number: int, radius: float, ring: float) -> str:
    angle = 2 * math.pi * number / FEET
    place = _tuple(ring * math.cos(angle), ring * math.sin(angle), radius)
    return f"""
        def Sphere "foot_{number}" ({_api("PhysicsCollisionAPI", *COLLIDER_APIS)})
        {{
            double radius = {radius:.6f}
            float3[] extent = {_extent(radius, radius, radius)}
            {_collider("Slick", place)}
        }}"""


def _collider(material: str, place: str) -> str:
    return f"""float physxCollision:contactOffset = {CONTACT_OFFSET_M}
            float physxCollision:restOffset = 0
            double3 xformOp:translate = {place}
            uniform token[] xformOpOrder = ["xformOp:translate"]
            rel material:binding:physics = </World/{material}>"""


def _tuple(*values: float) -> str:
    return "(" + ", ".join(f"{value:.6f}" for value in values) + ")"


def _extent(x: float, y: float, z: float) -> str:
    return f"[{_tuple(-x, -y, -z)}, {_tuple(x, y, z)}]"


def _api(*names: str) -> str:
    quoted = ", ".join(f'"{name}"' for name in names)
    return f"prepend apiSchemas = [{quoted}]"

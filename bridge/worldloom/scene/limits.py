"""Every limit of the project in one frozen value, with the reason beside each number."""

from __future__ import annotations

from dataclasses import asdict, dataclass

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


@dataclass(frozen=True)
class Limits:
    """What a server accepts; sent to clients so that they can check before they upload."""

    photo_bytes: int = 32 * MIB
    """Largest photo file [bytes]."""
    photo_pixels: int = 50_000_000
    """Largest photo [pixels], read from the header before anything is decoded."""
    photo_min_side: int = 64
    """Smallest side of a photo [pixels]; below it no layout can be estimated."""
    depth_bytes: int = 256 * MIB
    """Largest supplied depth file [bytes]."""
    capture_bytes: int = 4 * GIB
    """Largest capture archive [bytes]."""
    capture_frames: int = 8001
    """Most frames of a capture, as many as a path may have; more says nothing new."""
    capture_depth_pixels: int = 8_000_000
    """Largest depth map of a capture [pixels]; sensors have 0.05 to 2 million."""
    blob_bytes: int = 8 * GIB
    """Largest single blob in the store [bytes]."""
    path_frames: int = 8001
    """Longest camera path [frames] = 1 + 80 x 100 chunks."""
    path_step_m: float = 0.5
    """Largest move between two frames [m]; more is a teleport, not a camera."""
    path_turn_deg: float = 20.0
    """Largest turn between two frames [degrees]."""
    path_reach_m: float = 10_000.0
    """Largest distance of a pose from the photo's camera [m]."""
    prompt_chars: int = 4096
    """Longest prompt [characters]."""
    prompts: int = 256
    """Most prompts in one request."""
    collider_triangles: int = 2_000_000
    """Largest triangle budget that a request may ask for."""
    refine_steps: int = 10_000
    """Most steps of photometric refinement that a request may ask for."""
    part_bytes: int = MIB
    """Size of one transfer part [bytes]; best rate measured (spec bridge 7.1)."""
    message_bytes: int = 8 * MIB
    """Largest gRPC message [bytes]."""
    queue_total: int = 256
    """Most jobs waiting on one server."""
    queue_per_owner: int = 32
    """Most jobs of one owner waiting."""
    running_per_owner: int = 0
    """Most jobs of one owner that run at the same time; 0 for as many as there are workers."""
    urgent_per_owner: int = 4
    """Most jobs of one owner above priority 0 that wait; they may not push everyone else back."""
    watch_per_owner: int = 256
    """Most open WatchJob streams of one owner."""
    creates_per_owner: int = 64
    """Most CreateJob calls of one owner under way; the disk takes one after the other."""
    streams_per_owner: int = 64
    """Most ReadBlob and WriteBlob streams of one owner under way."""
    jobs_per_minute: int = 6000
    """CreateJob calls of one owner a minute, and at once after a quiet minute; 0 for no limit."""
    bytes_per_minute: int = 256 * GIB
    """Bytes up and down of one owner a minute; more is slowed down, not refused. 0: no limit."""
    owner_bytes: int = 0
    """Most bytes of one owner in the store, uploads and results together; 0 for no limit."""
    free_space_floor: int = 256 * MIB
    """Free space below which nothing new is taken and no job begins [bytes]."""

    def to_json(self) -> dict[str, int | float]:
        """The limits as a plain dictionary."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, int | float]) -> Limits:
        """Limits from a dictionary; keys that this version does not know are ignored."""
        known = cls.__dataclass_fields__
        return cls(**{key: value for key, value in data.items() if key in known})

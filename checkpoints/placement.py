"""Where a model lies and how it runs: its device or devices, its dtype, its attention implementation."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypedDict, get_args

from checkpoints.errors import DriftError, require_choice

DType = Literal["float32", "bfloat16", "float16", "nf4", "int8"]
DTYPES: tuple[DType, ...] = get_args(DType)
PACKED: tuple[DType, ...] = ("nf4", "int8")
AUTO = "auto"
DeviceMap = str | Mapping[str, str | int]


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a model lies and how it runs.

    Attributes:
        device: a torch device, or ``"auto"``: an accelerator if this machine has one, else the CPU.
        dtype: of the weights and the forward passes: ``"float32"``, ``"bfloat16"`` or ``"float16"``; ``"nf4"`` and
            ``"int8"`` hold the linear maps in four and eight bits and compute in bfloat16 (needs bitsandbytes), the
            latter without gradients, so without circuits. One that is stored quantised takes the dtype that it is
            stored in. Recorded with every result.
        attention: transformers' attention implementation (``"sdpa"``, ``"eager"``, or a registered name); ``"auto"``
            takes SDPA, and eager where the architecture has no other, as Gemma 2 and gpt-oss, which is said.
        device_map: in place of the device, for models that are larger than one: ``"auto"``, ``"balanced"``,
            ``"sequential"``, or module names with their devices (needs accelerate).
    """

    device: str = AUTO
    dtype: str = "float32"
    attention: str = AUTO
    device_map: DeviceMap | None = None

    def __post_init__(self) -> None:
        require_choice("dtype", self.dtype, DTYPES, error=DriftError)

    @classmethod
    def of(cls, placement: "Placement | None", where: "Where", *, device: str = AUTO) -> "Placement":
        """A placement given whole, as its fields one by one, or as both, the fields then in place of the whole's own.

        Args:
            placement: the whole; by default a new one on ``device``.
            where: fields of `Placement`.
            device: of a new one.

        Raises:
            DriftError: no `Placement`, no such field, or no such dtype.
        """
        if not isinstance(placement, Placement | None):
            raise DriftError(f"a placement is a checkpoints.Placement, got {placement!r}; write device={placement!r}")
        unknown = sorted(set(where) - set(Where.__annotations__))
        if unknown:
            raise DriftError(
                f"{unknown[0]!r} is no argument here, and a placement has none of that name; it has "
                f"{', '.join(Where.__annotations__)}"
            )
        return replace(placement or cls(device=device), **where)

    @property
    def packed(self) -> bool:
        """Whether linear maps are held in fewer bits than they compute in."""
        return self.dtype in PACKED

    @property
    def floats(self) -> str:
        """The torch dtype of what is computed."""
        return "bfloat16" if self.packed else self.dtype

    @property
    def here(self) -> str:
        """The torch device that ``device`` is on this machine."""
        if self.device != AUTO:
            return self.device
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"


ANYWHERE = Placement()


class Where(TypedDict, total=False):
    """Fields of a `Placement`, each of which may be given by itself."""

    device: str
    dtype: str
    attention: str
    device_map: DeviceMap | None

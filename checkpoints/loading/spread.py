"""Where the parts of a model lie that is spread over devices by a map."""

from pathlib import Path
from typing import TYPE_CHECKING

from checkpoints.errors import DriftError
from checkpoints.placement import DeviceMap

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")


def require_usable(device_map: DeviceMap | None) -> None:
    """Refuse a map of no known kind, or one that the environment has no package for.

    Raises:
        DriftError: says which.
    """
    if device_map is None:
        return
    require_packages("a device map spreads a model over devices", "accelerate", extra="gpus")
    if isinstance(device_map, str) and device_map not in _MAPS:
        raise DriftError(f"device map {device_map!r} is none of {', '.join(_MAPS)}, nor module names with devices")
    if not isinstance(device_map, str):
        for place in dict.fromkeys(device_map.values()):
            _require_device(place)


def _require_device(place: str | int) -> None:
    import torch

    if place == "disk":
        return  # refused by `placement_of`, which names what lies there
    try:
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise DriftError(f"the device map names {place!r}: {reason}; name devices of this machine, as 'cpu'") from error


def placement_of(folder: Path, model: "PreTrainedModel", device_map: DeviceMap) -> dict[str, str]:
    """Where each part of a spread model lies.

    Raises:
        DriftError: a map that says nothing of some of it, or puts some where nothing can be hooked or differentiated.
    """
    keys = () if isinstance(device_map, str) else tuple(device_map)
    forgotten = [name for name, _ in model.named_parameters() if keys and not any(_within(name, key) for key in keys)]
    if forgotten:
        raise DriftError(
            f"the device map says nothing of {len(forgotten)} tensors of {folder}, {forgotten[0]!r} first; "
            "give every module its device, or '' its default"
        )
    away = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if away:
        raise DriftError(
            f"the device map leaves {len(away)} tensors of {folder} on disk or, beside an accelerator, in "
            f"main memory, {away[0]!r} first: what is not on a device cannot be hooked; use more devices or a smaller "
            "dtype"
        )
    return _devices("", model)


def _within(parameter: str, module: str) -> bool:
    return not module or parameter == module or parameter.startswith(f"{module}.")


def _devices(name: str, module: "torch.nn.Module") -> dict[str, str]:
    """The coarsest map from modules to devices that says where every parameter is."""
    found = {str(parameter.device) for parameter in module.parameters()}
    if len(found) == 1:
        return {name: found.pop()}
    places = {f"{name}.{own}".lstrip("."): str(p.device) for own, p in module.named_parameters(recurse=False)}
    for own, child in module.named_children():
        places |= _devices(f"{name}.{own}".lstrip("."), child) if any(True for _ in child.parameters()) else {}
    return places


def require_packages(what: str, *packages: str, extra: str) -> None:
    """Refuse what needs packages that are not installed.

    Args:
        what: what needs them, for the message.
        packages: their import names.
        extra: the extra of this distribution that brings them.

    Raises:
        DriftError: names those that are missing.
    """
    from importlib.util import find_spec

    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        named = " and ".join(missing)
        raise DriftError(f"{what}, which needs the package {named}: pip install 'circuit-drift[{extra}]'")

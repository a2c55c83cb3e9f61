"""MADA under the wrappers that other libraries put around an optimizer."""

from typing import Any

INNER = ("optimizer", "_optimizer", "optim")  # accelerate and DeepSpeed, Lightning, torch's ZeRO


def coefficients(optimizer: Any) -> dict[str, float] | list[dict[str, float]]:
    """The `.coefficients` of the optimizer under any number of wrappers.

    optimizer: MADA or another optimizer of this package; what accelerate, Lightning, DeepSpeed or the like made of it;
    or an object with `.optimizer`, such as a Trainer. Raises TypeError if none of this package is under it.
    """
    inner, seen = optimizer, []
    while inner is not None and not any(inner is x for x in seen):
        if isinstance(getattr(type(inner), "coefficients", None), property):
            return inner.coefficients
        seen.append(inner)
        inner = next((getattr(inner, name) for name in INNER if getattr(inner, name, None) is not None), None)
    names = " around ".join(type(x).__name__ for x in seen or [optimizer])
    raise TypeError(f"there are no coefficients in {names}: none of these wraps an optimizer of this package")

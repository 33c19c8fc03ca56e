"""How far a clock may differ from Redis's. Pure, and without packages: the doctor runs where hardly any are installed."""

from __future__ import annotations

#: A host whose clock differs more has no working NTP; receivers refuse signatures from 300 s on.
MAX_SKEW_S = 30.0


def is_off(skew_s: float) -> bool:
    """Whether a clock that is ahead by so much is wrong: its host neither sweeps nor expires anything."""
    return abs(skew_s) > MAX_SKEW_S


def remark(skew_s: float) -> str:
    """Say in words what is wrong with a clock."""
    return f"its clock is {abs(skew_s):,.0f} s {'ahead of' if skew_s > 0 else 'behind'} that of Redis; set it by NTP"

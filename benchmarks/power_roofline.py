"""The roofline that the additive model is compared with; a part of power.py.

    t = fixed + sum over operators of (max(dense / R_dense + depthwise / R_depthwise, bytes / BW) + each)

Williams, Waterman, Patterson 2009, with rates a number format, fitted to energy in one go like the other model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from power_fit import Array, Row
from scipy.optimize import least_squares

from edgeport.cost_model import FORMATS

START = np.log([0.2, 1.0, 2.0, 1e6, 1e3])  # nanojoules a multiply-add, depthwise one, byte; of an inference, operator
SCALE = 0.05  # of residuals, beyond which they count less (soft L1)


def left_out(rows: Sequence[Row]) -> Array:
    """Return each row's energy, nanojoules, by a roofline fitted to the other families of its number format."""
    found = np.zeros(len(rows))
    for form in FORMATS:
        for family in {row.family for row in rows if row.dtype == form}:
            places = [i for i, row in enumerate(rows) if row.dtype == form and row.family == family]
            others = [row for row in rows if row.dtype == form and row.family != family]
            rates = _fitted(others)
            found[places] = [_energy(rates, _operators(rows[place])) for place in places]
    return found


def _fitted(rows: Sequence[Row]) -> Array:
    operators = [_operators(row) for row in rows]
    metered = np.log([row.energy_nj for row in rows])

    def residuals(rates: Array) -> Array:
        return np.log([_energy(rates, each) for each in operators]) - metered

    found: Array = least_squares(residuals, START, loss="soft_l1", f_scale=SCALE).x
    return found


def _operators(row: Row) -> Array:
    """Return dense multiply-adds, depthwise ones and bytes, (operators, 3)."""
    return np.array(
        [
            (
                0 if cost.is_depthwise else cost.macs,
                cost.macs if cost.is_depthwise else 0,
                cost.weight_bytes + cost.activation_bytes,
            )
            for cost in row.costs
        ],
        dtype=np.float64,
    )


def _energy(rates: Array, operators: Array) -> float:
    dense, depthwise, byte, fixed, each = np.exp(rates)
    work = operators[:, 0] * dense + operators[:, 1] * depthwise
    return float(fixed + np.sum(np.maximum(work, operators[:, 2] * byte) + each))

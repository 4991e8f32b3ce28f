"""What a board takes for a file: sums of counted terms, intervals, and what is never claimed."""

from __future__ import annotations

import pytest

from edgeport.cost_model import FAR, CostModel, Rates, Terms, energy, features, latency
from edgeport.types import OpCost

CONV = OpCost(name="c", kind="CONV_2D", dtype="int8", macs=1000, weight_bytes=50, activation_bytes=200)
DEPTHWISE = OpCost(
    name="d", kind="DEPTHWISE_CONV_2D", dtype="int8", macs=90, weight_bytes=10, activation_bytes=80, is_depthwise=True
)
ADD = OpCost(name="a", kind="ADD", dtype="int8", activation_bytes=30)
FLOAT_HEAD = OpCost(name="h", kind="FULLY_CONNECTED", dtype="float32", macs=100, weight_bytes=400, activation_bytes=40)
RESHAPE = OpCost(name="r", kind="RESHAPE", dtype="float32", activation_bytes=999)
TERMS = Terms(
    fixed=1e6, mac=1, depthwise_mac=10, weight_byte=100, activation_byte=1000, other_byte=10_000, depthwise=1e5
)
MODEL = CostModel(
    source="a test",
    rank_correlation=0.99,
    idle_w=2.0,
    least_macs=1000,
    most_macs=5000,
    int8=Rates(latency_ns=TERMS, energy_nj=TERMS, latency_factor=1.2, energy_factor=1.5),
    float32=Rates(latency_ns=Terms(mac=7), energy_nj=Terms(mac=7), latency_factor=1.4, energy_factor=1.1),
)


def test_terms_are_counted_by_number_format() -> None:
    found = features([CONV, DEPTHWISE, ADD, FLOAT_HEAD, RESHAPE])
    assert found["int8"] == {
        "fixed": 1.0,
        "mac": 1000,
        "depthwise_mac": 90,
        "weight_byte": 60,
        "activation_byte": 310,
        "other_byte": 30,
        "depthwise": 1,
    }
    assert found["float32"]["mac"] == 100
    assert found["float32"]["fixed"] == 0.0
    assert found["float32"]["activation_byte"] == 40, "what changes only the shape costs nothing"


def test_float16_is_computed_as_float32() -> None:
    half = OpCost(name="h", kind="CONV_2D", dtype="float16", macs=5)
    assert features([half])["float32"]["mac"] == 5


def test_prediction_is_the_sum_and_the_widest_interval_holds() -> None:
    ours = 1e6 + 1000 + 900 + 6000 + 310_000 + 300_000 + 1e5
    found = latency(MODEL, [CONV, DEPTHWISE, ADD, FLOAT_HEAD])
    assert found.value == pytest.approx(ours + 700)
    assert found.factor == 1.4
    assert found.interval == pytest.approx((found.value / 1.4, found.value * 1.4))
    assert energy(MODEL, [CONV]).factor == 1.5, "a format without operators has no say"


def test_networks_unlike_the_metered_ones_get_a_wide_interval() -> None:
    tiny = OpCost(name="t", kind="CONV_2D", dtype="int8", macs=10)
    assert not MODEL.covers([tiny])
    assert latency(MODEL, [tiny]).factor == FAR
    assert energy(MODEL, [tiny]).factor == FAR
    assert MODEL.covers([CONV])


def test_no_operators_cost_the_fixed_term() -> None:
    assert features([])["int8"]["fixed"] == 1.0

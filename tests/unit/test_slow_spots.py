"""What a runtime ran, held against the file: which operators cost without computing in int8, and how much."""

from __future__ import annotations

from edgeport.formats import ExecutedOp, OpTime
from edgeport.formats.slow_spots import plain, sentence, slow_spots
from edgeport.types import OpCost

COSTS = (
    OpCost(name="x:int", kind="QuantizeLinear", dtype="int8", activation_bytes=100),
    OpCost(name="node_conv", kind="Conv", dtype="int8", macs=900, weight_bytes=100, activation_bytes=300),
    OpCost(name="node_slice", kind="Slice", dtype="int8", activation_bytes=200),
    OpCost(name="node_head", kind="Gemm", dtype="float32", macs=100, weight_bytes=200, activation_bytes=100),
)
EXECUTED = (
    ExecutedOp(name="x:int", kind="QuantizeLinear", dtype="int8"),
    ExecutedOp(name="node_conv", kind="QLinearConv", dtype="int8"),
    ExecutedOp(name="node_slice", kind="Slice", dtype="int8"),
    ExecutedOp(name="node_head", kind="Gemm", dtype="float32"),
)
RAN = (
    OpTime(name="x:int", kind="QuantizeLinear", kernel="", ms=0.5),
    OpTime(name="Transpose", kind="Transpose", kernel="", ms=0.25),
    OpTime(name="node_conv_token_7", kind="QLinearConv", kernel="", ms=2.0),
    OpTime(name="node_slice_token_9", kind="Slice", kernel="", ms=0.25),
    OpTime(name="node_head", kind="Gemm", kernel="", ms=1.0),
)


def test_spots_are_found_with_their_cost_the_costliest_first() -> None:
    spots = slow_spots(COSTS, EXECUTED, RAN, {"node_head": "head/linear", "node_slice_token_9": "down/slice"}.get)  # type: ignore[arg-type]  # every name asked for is there
    assert [(spot.kind, spot.operator) for spot in spots] == [
        ("float", "Gemm"),
        ("converted", "QuantizeLinear"),
        ("transposed", "Transpose"),
        ("unfused", "Slice"),
    ]
    head = spots[0]
    assert head.layers == ("head/linear",)
    assert (head.ms, head.time_share, head.macs_share, head.bytes_share) == (1.0, 0.25, 0.1, 0.3)
    assert spots[3].layers == ("down/slice",)
    assert (spots[3].macs_share, spots[3].bytes_share) == (0.0, 0.2)


def test_names_that_the_runtime_made_up_are_no_layers() -> None:
    transposed = next(spot for spot in slow_spots(COSTS, EXECUTED, RAN) if spot.kind == "transposed")
    assert transposed.layers == ()
    said = sentence(transposed, origin="measured")
    assert said == "Transpose runs only to change the layout: 6.2% of the time (0.250 ms, measured)"


def test_without_times_the_share_of_bytes_counts() -> None:
    ran = [
        OpTime(name="a", kind="CONV_2D", kernel="xnnpack", ms=None),
        OpTime(name="b", kind="STRIDED_SLICE", kernel="builtin", ms=None),
        OpTime(name="c", kind="RESHAPE", kernel="builtin", ms=None),
    ]
    costs = [
        OpCost(name="a", kind="CONV_2D", dtype="int8", macs=10, activation_bytes=30),
        OpCost(name="b", kind="STRIDED_SLICE", dtype="int8", activation_bytes=10),
    ]
    (spot,) = slow_spots(costs, (), ran)
    assert (spot.kind, spot.ms, spot.time_share, spot.bytes_share) == ("undelegated", None, None, 0.25)
    assert sentence(spot, origin="modelled") == "STRIDED_SLICE runs not taken by XNNPACK: 25.0% of the bytes moved: b"


def test_integer_layers_alone_give_no_spots() -> None:
    assert slow_spots(COSTS[1:2], EXECUTED[1:2], RAN[2:3]) == ()


def test_sentence_names_three_layers_and_counts_the_rest() -> None:
    ran = [OpTime(name=f"relu{index}", kind="RELU", kernel="xnnpack", ms=None) for index in range(5)]
    costs = [OpCost(name=f"relu{index}", kind="RELU", dtype="int8", activation_bytes=2) for index in range(5)]
    (spot,) = slow_spots(costs, (), ran)
    said = sentence(spot, origin="measured")
    assert said == "RELU runs not fused into a neighbour: 100.0% of the bytes moved: relu0, relu1, relu2 and 2 more"


def test_plain_drops_what_onnx_runtime_appends() -> None:
    assert plain("node_conv2d_3_token_17") == "node_conv2d_3"
    assert plain("relu_1_nchwc") == "relu_1"
    assert plain("conv_12") == "conv_12"


def test_padding_that_xnnpack_does_within_the_next_convolution_is_no_spot() -> None:
    costs = [
        OpCost(name="p", kind="PAD", dtype="int8", activation_bytes=30),
        OpCost(name="c", kind="CONV_2D", dtype="int8", macs=10, activation_bytes=30),
    ]

    def kinds(*ran: tuple[str, str, str]) -> list[str]:
        rows = [OpTime(name=name, kind=kind, kernel=kernel, ms=None) for name, kind, kernel in ran]
        return [f"{spot.kind} {spot.operator}" for spot in slow_spots(costs, (), rows)]

    assert kinds(("p", "PAD", "xnnpack"), ("c", "CONV_2D", "xnnpack")) == []
    assert kinds(("p", "PAD", "xnnpack"), ("c", "ADD", "xnnpack")) == ["unfused PAD"]
    assert kinds(("p", "PAD", "xnnpack")) == ["unfused PAD"]
    assert kinds(("p", "PAD", "builtin"), ("c", "CONV_2D", "xnnpack")) == ["undelegated PAD"]

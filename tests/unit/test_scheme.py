"""How int8 files are written."""

from __future__ import annotations

from dataclasses import replace

from edgeport.quant.scheme import Scheme


def test_what_training_did_not_see_of_a_file_is_told() -> None:
    trained = Scheme(weight_bits=8)

    assert trained.unlike(trained, backend="openvino") == ()
    assert replace(trained, io="int8").unlike(trained, backend="tflite") == ()  # the edges alone
    signed = replace(trained, activation="int8")
    assert signed.unlike(trained, backend="onnxruntime") == ()
    assert signed.unlike(trained, backend="openvino") == ("symmetric activations",)
    other = replace(trained, weight_bits=7, per_channel=False, raised={"a": "float32", "b": "int16", "c": "float32"})
    assert other.unlike(trained, backend="onnxruntime") == (
        "7-bit weights",
        "one weight scale a layer",
        "layers in float32, int16",
    )

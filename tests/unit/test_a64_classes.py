"""Which class an A64 instruction is of: words that GNU as wrote for the text beside them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from edgeport.devices.counter import FLAGS, SOURCE
from edgeport.devices.counting import MULTIPLIES

NAMES = ("branch", "load_store", "integer", "simd", "sdot", "smmla", "smlal", "smull", "mla", "fmla")
WORDS = [  # GNU assembler 2.40, -march=armv8.6-a+i8mm+fp16fml+sve+crypto
    (0x14000000, "b .", "branch"),
    (0x94000000, "bl .", "branch"),
    (0x54000000, "b.eq .", "branch"),
    (0xB4000000, "cbz x0, .", "branch"),
    (0x36180000, "tbz x0, #3, .", "branch"),
    (0xD65F03C0, "ret", "branch"),
    (0xD61F0060, "br x3", "branch"),
    (0xD4000001, "svc #0", "branch"),
    (0xD503201F, "nop", "branch"),
    (0xD5033BBF, "dmb ish", "branch"),
    (0xD53BD040, "mrs x0, tpidr_el0", "branch"),
    (0xF9400420, "ldr x0, [x1, #8]", "load_store"),
    (0xB8004420, "str w0, [x1], #4", "load_store"),
    (0xAD4107E0, "ldp q0, q1, [sp, #32]", "load_store"),
    (0xA9BF7BFD, "stp x29, x30, [sp, #-16]!", "load_store"),
    (0x4C402000, "ld1 {v0.16b-v3.16b}, [x0]", "load_store"),
    (0x4D40C820, "ld1r {v0.4s}, [x1]", "load_store"),
    (0x0D009000, "st1 {v0.s}[1], [x0]", "load_store"),
    (0x3CE26820, "ldr q0, [x1, x2]", "load_store"),
    (0xF9800000, "prfm pldl1keep, [x0]", "load_store"),
    (0xC85F7C20, "ldxr x0, [x1]", "load_store"),
    (0xF8200041, "ldadd x0, x1, [x2]", "load_store"),
    (0x8B020020, "add x0, x1, x2", "integer"),
    (0xD10043FF, "sub sp, sp, #16", "integer"),
    (0xD28000E0, "mov x0, #7", "integer"),
    (0x90000000, "adrp x0, .", "integer"),
    (0x9B020C20, "madd x0, x1, x2, x3", "integer"),
    (0x9B227C20, "smull x0, w1, w2", "integer"),
    (0xD3431820, "ubfx x0, x1, #3, #4", "integer"),
    (0x9A82B020, "csel x0, x1, x2, lt", "integer"),
    (0x9AC20820, "udiv x0, x1, x2", "integer"),
    (0x4E22D420, "fadd v0.4s, v1.4s, v2.4s", "simd"),
    (0x6E22DC20, "fmul v0.4s, v1.4s, v2.4s", "simd"),
    (0x4E22F420, "fmax v0.4s, v1.4s, v2.4s", "simd"),
    (0x6EA2B420, "sqrdmulh v0.4s, v1.4s, v2.4s", "simd"),
    (0x4E606820, "sadalp v0.4s, v1.8h", "simd"),
    (0x0F08A420, "sshll v0.8h, v1.8b, #0", "simd"),
    (0x4E040C20, "dup v0.4s, w1", "simd"),
    (0x4F000400, "movi v0.4s, #0", "simd"),
    (0x1E270020, "fmov s0, w1", "simd"),
    (0x4E21D820, "scvtf v0.4s, v1.4s", "simd"),
    (0x0E614820, "sqxtn v0.4h, v1.4s", "simd"),
    (0x4EA29C20, "mul v0.4s, v1.4s, v2.4s", "simd"),
    (0x6E82CC20, "fcmla v0.4s, v1.4s, v2.4s, #90", "simd"),
    (0x6E42FC20, "bfdot v0.4s, v1.8h, v2.8h", "simd"),
    (0x6E42EC20, "bfmmla v0.4s, v1.8h, v2.8h", "simd"),
    (0x6E022020, "ext v0.16b, v1.16b, v2.16b, #4", "simd"),
    (0x4E284820, "aese v0.16b, v1.16b", "simd"),
    (0x4E829420, "sdot v0.4s, v1.16b, v2.16b", "simd sdot"),
    (0x2E829420, "udot v0.2s, v1.8b, v2.8b", "simd sdot"),
    (0x4FA9EA3F, "sdot v31.4s, v17.16b, v9.4b[3]", "simd sdot"),
    (0x6FBFE020, "udot v0.4s, v1.16b, v31.4b[1]", "simd sdot"),
    (0x4E829C20, "usdot v0.4s, v1.16b, v2.16b", "simd sdot"),
    (0x4F82F820, "usdot v0.4s, v1.16b, v2.4b[2]", "simd sdot"),
    (0x4F02F820, "sudot v0.4s, v1.16b, v2.4b[2]", "simd sdot"),
    (0x4E82A420, "smmla v0.4s, v1.16b, v2.16b", "simd smmla"),
    (0x6E82A420, "ummla v0.4s, v1.16b, v2.16b", "simd smmla"),
    (0x4E82AC20, "usmmla v0.4s, v1.16b, v2.16b", "simd smmla"),
    (0x0E628020, "smlal v0.4s, v1.4h, v2.4h", "simd smlal"),
    (0x4E628020, "smlal2 v0.4s, v1.8h, v2.8h", "simd smlal"),
    (0x0E228020, "smlal v0.8h, v1.8b, v2.8b", "simd smlal"),
    (0x2E628020, "umlal v0.4s, v1.4h, v2.4h", "simd smlal"),
    (0x0E62A020, "smlsl v0.4s, v1.4h, v2.4h", "simd smlal"),
    (0x0F722820, "smlal v0.4s, v1.4h, v2.h[7]", "simd smlal"),
    (0x4F422020, "smlal2 v0.4s, v1.8h, v2.h[0]", "simd smlal"),
    (0x2F7F2020, "umlal v0.4s, v1.4h, v15.h[3]", "simd smlal"),
    (0x0F7F6020, "smlsl v0.4s, v1.4h, v15.h[3]", "simd smlal"),
    (0x0E22C020, "smull v0.8h, v1.8b, v2.8b", "simd smull"),
    (0x4E22C020, "smull2 v0.8h, v1.16b, v2.16b", "simd smull"),
    (0x2E62C020, "umull v0.4s, v1.4h, v2.4h", "simd smull"),
    (0x0F62A020, "smull v0.4s, v1.4h, v2.h[2]", "simd smull"),
    (0x4EA29420, "mla v0.4s, v1.4s, v2.4s", "simd mla"),
    (0x6E629420, "mls v0.8h, v1.8h, v2.8h", "simd mla"),
    (0x6F520020, "mla v0.8h, v1.8h, v2.h[1]", "simd mla"),
    (0x6FA24820, "mls v0.4s, v1.4s, v2.s[3]", "simd mla"),
    (0x4E22CC20, "fmla v0.4s, v1.4s, v2.4s", "simd fmla"),
    (0x4EE2CC20, "fmls v0.2d, v1.2d, v2.2d", "simd fmla"),
    (0x4E420C20, "fmla v0.8h, v1.8h, v2.8h", "simd fmla"),
    (0x0EC20C20, "fmls v0.4h, v1.4h, v2.4h", "simd fmla"),
    (0x4FA21820, "fmla v0.4s, v1.4s, v2.s[3]", "simd fmla"),
    (0x4F9F5020, "fmls v0.4s, v1.4s, v31.s[0]", "simd fmla"),
    (0x4F121820, "fmla v0.8h, v1.8h, v2.h[5]", "simd fmla"),
    (0x5FA21020, "fmla s0, s1, v2.s[1]", "simd fmla"),
    (0x1F020C20, "fmadd s0, s1, s2, s3", "simd fmla"),
    (0x1F628C20, "fnmsub d0, d1, d2, d3", "simd fmla"),
    (0x04A20020, "add z0.s, z1.s, z2.s", ""),
    (0x65A20020, "fmla z0.s, p0/m, z1.s, z2.s", ""),
]
MAIN = """
#include "a64_classes.h"
#include <inttypes.h>
#include <stdio.h>
int main(void)
{
    uint32_t word;
    while (scanf("%" SCNx32, &word) == 1) {
        printf("%" PRIu32 "\\n", a64_classes(word));
    }
    return 0;
}
"""


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> dict[int, set[str]]:
    """Return word -> classes, from the C code that the counter is compiled from."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (cc)")
    folder = tmp_path_factory.mktemp("classes")
    (folder / "main.c").write_text(MAIN, encoding="utf-8")
    flags = [flag for flag in FLAGS if flag not in ("-shared", "-fPIC")]
    command = [compiler, *flags, f"-I{SOURCE.parent}", str(folder / "main.c"), "-o", str(folder / "main")]
    subprocess.run(command, check=True, capture_output=True)
    words = [word for word, _, _ in WORDS]
    text = "\n".join(f"{word:x}" for word in words)
    said = subprocess.run([folder / "main"], input=text, capture_output=True, text=True, check=True).stdout.split()
    found = [{name for place, name in enumerate(NAMES) if int(bits) >> place & 1} for bits in said]
    return dict(zip(words, found, strict=True))


@pytest.mark.parametrize(("word", "text", "expected"), WORDS, ids=[text for _, text, _ in WORDS])
def test_class_of_an_instruction(word: int, text: str, expected: str, classes: dict[int, set[str]]) -> None:
    assert classes[word] == set(expected.split()), text


def test_names_are_those_of_the_source() -> None:
    source = Path(SOURCE).read_text(encoding="utf-8")
    place = [source.index(f'"{name}"') for name in NAMES]
    assert place == sorted(place)
    assert set(MULTIPLIES) == set(NAMES[4:])

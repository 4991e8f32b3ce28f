/* Which kinds of work an A64 instruction does, told from its 32 bits.
 *
 * Encodings: Arm Architecture Reference Manual for A-profile (DDI 0487), chapter C4, "A64 Instruction Set Encoding".
 * The first four classes split all instructions; the others are families of multiplying ones within A64_SIMD. */
#ifndef EDGEPORT_A64_CLASSES_H
#define EDGEPORT_A64_CLASSES_H

#include <stdint.h>

enum a64_class {
    A64_BRANCH,     /* branches, exceptions, system instructions, barriers */
    A64_LOAD_STORE, /* loads and stores of every register file, prefetches, atomics */
    A64_INTEGER,    /* arithmetic on general registers */
    A64_SIMD,       /* Advanced SIMD and floating point */
    A64_SDOT,       /* SDOT, UDOT, USDOT, SUDOT: 16 products of 8 bits into 32 */
    A64_SMMLA,      /* SMMLA, UMMLA, USMMLA: 32 products of 8 bits into 32 */
    A64_SMLAL,      /* SMLAL, SMLSL, UMLAL, UMLSL: products added at twice their width */
    A64_SMULL,      /* SMULL, UMULL: products at twice their width, not yet added */
    A64_MLA,        /* MLA, MLS: integer products added at the same width */
    A64_FMLA,       /* FMLA, FMLS, FMADD, FMSUB, FNMADD, FNMSUB: floating point products, added */
    A64_CLASSES
};

struct a64_family {
    uint32_t mask, bits;
    enum a64_class kind;
};

/* Vector forms: bit 30 (Q) is free; where U (bit 29) is free, signed and unsigned forms are one family. */
static const struct a64_family a64_families[] = {
    {0x9fe0fc00, 0x0e809400, A64_SDOT},  /* SDOT, UDOT, vectors */
    {0x9fc0f400, 0x0f80e000, A64_SDOT},  /* SDOT, UDOT, by element */
    {0xbfe0fc00, 0x0e809c00, A64_SDOT},  /* USDOT, vectors */
    {0xbf40f400, 0x0f00f000, A64_SDOT},  /* SUDOT (size 00), USDOT (size 10), by element */
    {0xdfe0fc00, 0x4e80a400, A64_SMMLA}, /* SMMLA, UMMLA */
    {0xffe0fc00, 0x4e80ac00, A64_SMMLA}, /* USMMLA */
    {0x9f20dc00, 0x0e208000, A64_SMLAL}, /* SMLAL, SMLSL, UMLAL, UMLSL, vectors: bit 13 tells adding from subtracting */
    {0x9f00b400, 0x0f002000, A64_SMLAL}, /* the same, by element: bit 14 tells */
    {0x9f20fc00, 0x0e20c000, A64_SMULL}, /* SMULL, UMULL, vectors */
    {0x9f00f400, 0x0f00a000, A64_SMULL}, /* SMULL, UMULL, by element */
    {0x9f20fc00, 0x0e209400, A64_MLA},   /* MLA, MLS, vectors: U tells */
    {0xbf00b400, 0x2f000000, A64_MLA},   /* MLA, MLS, by element */
    {0xbf20fc00, 0x0e20cc00, A64_FMLA},  /* FMLA, FMLS, vectors of 32 or 64 bits: bit 23 tells */
    {0xbf60fc00, 0x0e400c00, A64_FMLA},  /* FMLA, FMLS, vectors of 16 bits */
    {0xbf80b400, 0x0f801000, A64_FMLA},  /* FMLA, FMLS, by element, 32 or 64 bits: bit 14 tells */
    {0xbfc0b400, 0x0f001000, A64_FMLA},  /* the same, 16 bits */
    {0xff80b400, 0x5f801000, A64_FMLA},  /* scalar by element */
    {0xff000000, 0x1f000000, A64_FMLA},  /* FMADD, FMSUB, FNMADD, FNMSUB: scalars */
};

/* Return a bit a class (1 << class) that an instruction belongs to; SVE and SME are in none of them. */
static inline uint32_t a64_classes(uint32_t word)
{
    uint32_t group = word >> 25 & 0xf; /* op0 of table C4-1 */
    if ((group & 0x5) == 0x4) {
        return 1u << A64_LOAD_STORE;
    }
    if ((group & 0xe) == 0xa) {
        return 1u << A64_BRANCH;
    }
    if ((group & 0x7) == 0x5 || (group & 0xe) == 0x8) {
        return 1u << A64_INTEGER;
    }
    if ((group & 0x7) != 0x7) {
        return 0;
    }
    for (unsigned i = 0; i < sizeof a64_families / sizeof a64_families[0]; i++) {
        if ((word & a64_families[i].mask) == a64_families[i].bits) {
            return 1u << A64_SIMD | 1u << a64_families[i].kind;
        }
    }
    return 1u << A64_SIMD;
}

#endif

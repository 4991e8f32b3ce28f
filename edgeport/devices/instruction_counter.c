/* A QEMU plugin that counts what a guest executes between two marks: instructions, classes of them (A64 guests), bytes
 * loaded and stored, and misses of a two-level cache.
 *
 * The guest makes marks by asking whether file descriptors that cannot exist are terminals (isatty, hence ioctl; no other
 * call of Python's makes a syscall so cheaply): FIRST_MARK + ARM once, then FIRST_MARK + BEGIN and FIRST_MARK + END around
 * what is to be counted. Until ARM nothing is instrumented, so that start-up runs at the emulator's full speed; ARM drops
 * all translated code, and what is translated from then on counts.
 *
 * Each translated block has one counter of its executions and a tally of its instructions; a region's figures are the sum
 * over blocks of executions x tally. Counters are not atomic: the guest must compute in one thread.
 *
 * Options: out=FILE, l1=BYTES:WAYS, l2=BYTES:WAYS.
 * FILE gets a line of JSON a region, in order, and a last line {"regions": N}; a file without that line is not whole.
 *
 * Caches: lines of 64 bytes, least recently used, written lines are allocated, the second level sees the misses of the
 * first. No prefetching, no instruction fetches, no other processes. Lines that DC ZVA clears are not seen as stores. */
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qemu-plugin.h>

#include "a64_classes.h"

QEMU_PLUGIN_EXPORT int qemu_plugin_version = QEMU_PLUGIN_VERSION;

enum { FIRST_MARK = 70000, ARM = 0, BEGIN = 1, END = 2, LINE_BITS = 6 };

enum figure {
    INSTRUCTIONS = A64_CLASSES, /* the classes come first */
    LOAD_BYTES,
    STORE_BYTES,
    L1D_MISSES,
    L2_MISSES,
    FIGURES
};

static const char *const names[FIGURES] = {
    "branch", "load_store", "integer", "simd", "sdot", "smmla", "smlal", "smull", "mla", "fmla",
    "instructions", "load_bytes", "store_bytes", "l1d_misses", "l2_misses",
};

struct block {
    struct block *next;
    uint64_t executions;
    uint32_t tally[INSTRUCTIONS + 1];
};

struct cache {
    uint64_t sets, ways, clock;
    uint64_t *line; /* (sets, ways), one more than the line's number; 0: empty */
    uint64_t *used; /* (sets, ways), when it was used last */
};

static struct {
    const char *path;
    FILE *out;
    bool is_a64, is_armed, is_counting;
    int64_t ioctl_number;
    struct block *blocks;
    struct cache l1, l2;
    uint64_t memory[FIGURES]; /* sums so far of the figures that no tally holds */
    uint64_t before[FIGURES];
    unsigned regions;
} state;

static void give_up(const char *what, const char *why)
{
    fprintf(stderr, "instruction_counter: %s: %s\n", what, why);
    exit(2);
}

static void *zeroed(size_t count, size_t size)
{
    void *memory = calloc(count, size);
    if (memory == NULL) {
        give_up("calloc", strerror(ENOMEM));
    }
    return memory;
}

static bool is_hit(struct cache *cache, uint64_t line)
{
    uint64_t first = line % cache->sets * cache->ways, oldest = first;
    cache->clock++;
    for (uint64_t way = first; way < first + cache->ways; way++) {
        if (cache->line[way] == line + 1) {
            cache->used[way] = cache->clock;
            return true;
        }
        if (cache->used[way] < cache->used[oldest]) {
            oldest = way;
        }
    }
    cache->line[oldest] = line + 1;
    cache->used[oldest] = cache->clock;
    return false;
}

static void on_access(unsigned int cpu, qemu_plugin_meminfo_t access, uint64_t address, void *unused)
{
    (void)cpu;
    (void)unused;
    if (!state.is_counting) {
        return;
    }
    uint64_t size = UINT64_C(1) << qemu_plugin_mem_size_shift(access);
    state.memory[qemu_plugin_mem_is_store(access) ? STORE_BYTES : LOAD_BYTES] += size;
    if (state.l1.sets == 0) {
        return;
    }
    for (uint64_t line = address >> LINE_BITS; line <= (address + size - 1) >> LINE_BITS; line++) {
        if (!is_hit(&state.l1, line)) {
            state.memory[L1D_MISSES]++;
            if (state.l2.sets != 0 && !is_hit(&state.l2, line)) {
                state.memory[L2_MISSES]++;
            }
        }
    }
}

static void on_block(unsigned int cpu, void *block)
{
    (void)cpu;
    ((struct block *)block)->executions++;
}

static uint32_t word_of(struct qemu_plugin_insn *instruction)
{
    uint32_t word = 0;
#if QEMU_PLUGIN_VERSION >= 3 /* QEMU 9.1 copies, older ones lend */
    qemu_plugin_insn_data(instruction, &word, sizeof word);
#else
    memcpy(&word, qemu_plugin_insn_data(instruction), sizeof word);
#endif
    return word;
}

static void on_translation(qemu_plugin_id_t id, struct qemu_plugin_tb *translated)
{
    (void)id;
    size_t count = qemu_plugin_tb_n_insns(translated);
    struct block *block = zeroed(1, sizeof *block);
    block->tally[INSTRUCTIONS] = (uint32_t)count;
    for (size_t i = 0; i < count; i++) {
        struct qemu_plugin_insn *instruction = qemu_plugin_tb_get_insn(translated, i);
        if (state.is_a64) {
            uint32_t classes = a64_classes(word_of(instruction));
            for (unsigned kind = 0; kind < A64_CLASSES; kind++) {
                block->tally[kind] += classes >> kind & 1;
            }
        }
        qemu_plugin_register_vcpu_mem_cb(instruction, on_access, QEMU_PLUGIN_CB_NO_REGS, QEMU_PLUGIN_MEM_RW, NULL);
    }
    block->next = state.blocks;
    state.blocks = block;
    qemu_plugin_register_vcpu_tb_exec_cb(translated, on_block, QEMU_PLUGIN_CB_NO_REGS, block);
}

static void sum(uint64_t *totals)
{
    memcpy(totals, state.memory, sizeof state.memory);
    for (const struct block *block = state.blocks; block != NULL; block = block->next) {
        for (unsigned i = 0; i <= INSTRUCTIONS; i++) {
            totals[i] += block->executions * block->tally[i];
        }
    }
}

static void check_written(bool is_good)
{
    if (!is_good) {
        give_up(state.path, strerror(errno));
    }
}

static bool is_told(enum figure figure)
{
    if (figure < INSTRUCTIONS) {
        return state.is_a64;
    }
    if (figure == L1D_MISSES) {
        return state.l1.sets != 0;
    }
    return figure != L2_MISSES || (state.l1.sets != 0 && state.l2.sets != 0);
}

static void write_region(void)
{
    uint64_t totals[FIGURES];
    const char *between = "{";
    sum(totals);
    for (unsigned i = 0; i < FIGURES; i++) {
        if (is_told(i)) {
            check_written(fprintf(state.out, "%s\"%s\": %" PRIu64, between, names[i], totals[i] - state.before[i]) > 0);
            between = ", ";
        }
    }
    check_written(fputs("}\n", state.out) >= 0 && fflush(state.out) == 0);
    state.regions++;
}

static void on_exit_of_guest(qemu_plugin_id_t id, void *unused)
{
    (void)id;
    (void)unused;
    check_written(fprintf(state.out, "{\"regions\": %u}\n", state.regions) > 0 && fclose(state.out) == 0);
}

static void on_syscall(qemu_plugin_id_t id, unsigned int cpu, int64_t number, uint64_t descriptor, uint64_t a2, uint64_t a3,
                       uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8);

static void count_from_now_on(qemu_plugin_id_t id)
{
    qemu_plugin_register_vcpu_syscall_cb(id, on_syscall);
    qemu_plugin_register_atexit_cb(id, on_exit_of_guest, NULL);
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
}

static void on_syscall(qemu_plugin_id_t id, unsigned int cpu, int64_t number, uint64_t descriptor, uint64_t a2, uint64_t a3,
                       uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8)
{
    (void)cpu, (void)a2, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
    if (number != state.ioctl_number) {
        return;
    }
    if (descriptor == FIRST_MARK + ARM && !state.is_armed) {
        state.is_armed = true;
        qemu_plugin_reset(id, count_from_now_on);
    } else if (descriptor == FIRST_MARK + BEGIN && state.is_armed) {
        sum(state.before);
        state.is_counting = true;
    } else if (descriptor == FIRST_MARK + END && state.is_counting) {
        state.is_counting = false;
        write_region();
    }
}

static struct cache cache_of(const char *option)
{
    char *rest = NULL;
    struct cache cache = {0};
    uint64_t bytes = strtoull(option, &rest, 10);
    cache.ways = *rest == ':' ? strtoull(rest + 1, &rest, 10) : 0;
    cache.sets = cache.ways == 0 || *rest != '\0' ? 0 : (bytes >> LINE_BITS) / cache.ways;
    if (cache.sets == 0) {
        give_up(option, "a cache is BYTES:WAYS with at least one line of 64 bytes a way");
    }
    cache.line = zeroed(cache.sets * cache.ways, sizeof *cache.line);
    cache.used = zeroed(cache.sets * cache.ways, sizeof *cache.used);
    return cache;
}

static void read_option(const char *option)
{
    const char *value = strchr(option, '=');
    value = value == NULL ? "" : value + 1;
    if (strncmp(option, "out=", 4) == 0) {
        state.path = strdup(value);
    } else if (strncmp(option, "l1=", 3) == 0) {
        state.l1 = cache_of(value);
    } else if (strncmp(option, "l2=", 3) == 0) {
        state.l2 = cache_of(value);
    } else {
        give_up(option, "unknown option");
    }
}

QEMU_PLUGIN_EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv)
{
    static const struct { const char *guest; int64_t ioctl_number; } systems[] = {
        {"aarch64", 29}, {"arm", 54}, {"i386", 54}, {"x86_64", 16}, /* Linux, the syscall tables of each architecture */
    };
    state.ioctl_number = -1;
    for (unsigned i = 0; i < sizeof systems / sizeof systems[0]; i++) {
        if (strcmp(info->target_name, systems[i].guest) == 0) {
            state.ioctl_number = systems[i].ioctl_number;
        }
    }
    if (state.ioctl_number < 0) {
        give_up(info->target_name, "unknown kind of guest");
    }
    state.is_a64 = strcmp(info->target_name, "aarch64") == 0;
    for (int i = 0; i < argc; i++) {
        read_option(argv[i]);
    }
    if (state.path == NULL) {
        give_up("out", "which file?");
    }
    state.out = fopen(state.path, "w");
    check_written(state.out != NULL);
    qemu_plugin_register_vcpu_syscall_cb(id, on_syscall);
    qemu_plugin_register_atexit_cb(id, on_exit_of_guest, NULL);
    return 0;
}

/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only
 *
 * The walk from an interrupted pc to the thread's start, by rows compiled from
 * the binaries' unwind programs, by frame pointer where there are none.
 *
 * What makes it cheap:
 *  - A frame seen before costs one probe of a per-CPU cache from pc to rule:
 *    stacks repeat, so nearly all frames hit.
 *  - The stack is copied in windows: one copy from the target serves the
 *    saved registers of several frames.
 *  - Searches have no data-dependent branch, for the CPU and for the verifier.
 */
#ifndef TXPROF_UNWIND_H
#define TXPROF_UNWIND_H

#include "maps.h"

/* DWARF register numbers, System V ABI AMD64 figure 3.36. */
enum { RBX = 3, RBP = 6, RSP = 7, REGISTER_COUNT = 16 };

#define OUTCOME(name, number, complete, text) OUTCOME_##name = number,
enum outcome {
#include "outcomes.def"
};
#undef OUTCOME

/* The bytes copied at once from the stack. Frames of compiled code are mostly
 * smaller than 128 bytes; a larger window copies more than it saves. */
#define WINDOW_BYTES 512
#define USER_PAGE_BYTES 4096

/* Entries of the cache; 64 KiB per CPU stay in its second-level cache. */
#define CACHE_ENTRIES 4096

#define FRAME_CAPACITY (MAX_KERNEL_FRAMES + MAX_USER_FRAMES + 2 * MAX_PYTHON_FRAMES)

struct cached_rule {
	__u64 pc;
	__u32 generation;
	__u32 rule;
};

/* Where a walk is. */
struct walk {
	__u64 pc;
	__u32 first_mapping;
	__u32 mapping_count;
	__u32 generation;
	__u32 valid; /* bit per register: known in this frame */
	__u32 frame_count;
	__u32 interrupted; /* pc was interrupted, not returned to */
	__u32 outcome;
};

/* Code objects told to userland by this CPU, by hash; 16 KiB. */
#define CODE_CACHE_ENTRIES 2048

/* Code objects met in this very sample, by address: between two frames of one interrupt nothing changes. */
#define MET_CODE_ENTRIES 64

struct met_code {
	__u64 code;
	__u64 time_ns; /* the sample's */
	__u32 cookie;
	__u32 flags; /* co_flags */
};

/* Further states of one thread, in other interpreters, that are looked at; a power of two. With
 * more, the stack is marked: OUTCOME_PYTHON_INTERPRETERS. */
#define MAX_OTHER_STATES 4

/* Where the walk along an interpreter's frames is. */
struct python_walk {
	__u64 thread;         /* PyThreadState found by a search, or 0 */
	__u64 search_thread;  /* to be looked at next */
	__u64 search_interpreter;
	__u64 thread_pointer; /* of the sampled thread */
	__u64 frame;          /* to be looked at next */
	__u32 word_count;
	__u32 segment_frames; /* since the last shim */
	__u64 others[MAX_OTHER_STATES]; /* further states of this thread, met by a search */
	__u32 other_count;    /* may be more than have room */
	__u32 padding;
	__u64 coroutine;      /* frame of the outermost one so far, or 0 */
	__u32 cookie;         /* of the code object that was read last */
	__u32 code_flags;     /* likewise */
	__u32 outcome;
	__u32 interpreters;   /* met by a search */
};

struct scratch {
	struct cached_rule cache[CACHE_ENTRIES];
	__u64 told_codes[CODE_CACHE_ENTRIES];
	struct met_code met_codes[MET_CODE_ENTRIES];
	struct python python;
	struct python_walk python_walk;
	__u8 python_thread[PYTHON_THREAD_BYTES];
	__u8 python_frame[PYTHON_FRAME_BYTES];
	__u8 python_code[PYTHON_CODE_BYTES];
	struct code_event code_event;
	struct errand_event errand;
	struct walk walk;
	__u64 registers[REGISTER_COUNT]; /* by DWARF number */
	__u64 value; /* what fetch_stack read */
	__u64 window_start;
	__u64 window_bytes; /* of `window` that are valid */
	__u8 window[WINDOW_BYTES];
	struct saved_registers saved;
	__u64 is_busy; /* of context_exit alone */
	struct wait_event wait;     /* with `sample` directly behind: one record of a wait */
	struct sample_event sample; /* with `frames` directly behind: one record */
	__u64 frames[FRAME_CAPACITY];
};

/* Programs that may interrupt one another have scratch memory of their own. */
enum context {
	CONTEXT_CLOCK = 0,  /* perf events do not interrupt one another's programs */
	CONTEXT_SWITCH = 1, /* the scheduler's tracepoints, interrupts disabled */
	CONTEXT_EXIT = 2,   /* the end of a system call, which may be preempted: see is_busy */
	CONTEXT_COUNT = 3,
};

/* key: context * cpu_capacity + CPU; CONTEXT_CLOCK alone where waits are not told. Only the
 * program that runs on that CPU in that context uses it. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} scratches SEC(".maps");

static __always_inline struct scratch *find_scratch(enum context context)
{
	__u32 key = context * cpu_capacity + bpf_get_smp_processor_id();
	return bpf_map_lookup_elem(&scratches, &key);
}

#define BIT(register) (1u << (register))
#define ALL_REGISTERS 0xffffu
#define CARRIED (BIT(RBX) | BIT(RBP) | BIT(RSP))

/* The functions without `static` are verified once, by themselves, rather than
 * once for each path that leads to them. */

/* Reads 8 bytes of the target's stack, through the window, to scratch->value. 0 on success. */
__noinline int fetch_stack(struct scratch *scratch, __u64 address)
{
	if (!scratch)
		return -1;
	__u64 offset = address - scratch->window_start;
	if (offset > WINDOW_BYTES - 8 || offset + 8 > scratch->window_bytes) {
		/* Up to the end of the page: the next one may not exist. */
		__u64 bytes = USER_PAGE_BYTES - (address & (USER_PAGE_BYTES - 1));
		if (bytes > WINDOW_BYTES)
			bytes = WINDOW_BYTES;
		if (bytes < 8) /* misaligned, across two pages */
			return bpf_probe_read_user(&scratch->value, 8, (void *)address);
		scratch->window_bytes = 0;
		if (bpf_probe_read_user(scratch->window, bytes, (void *)address))
			return -1;
		scratch->window_start = address;
		scratch->window_bytes = bytes;
		offset = 0;
	}
	scratch->value = *(__u64 *)(scratch->window + offset);
	return 0;
}

static __always_inline int read_stack(struct scratch *scratch, __u64 address, __u64 *value)
{
	if (fetch_stack(scratch, address))
		return -1;
	*value = scratch->value;
	return 0;
}

/* Index of the last of `count` mappings from `first` on that starts at or below `address`, branch-free. */
static __always_inline __u64 last_mapping_before(const struct mapping *mappings, __u64 first, __u64 count,
						 __u64 address)
{
	for (int i = 0; i < 17 && count > 1; i++) {
		__u64 half = count >> 1;
		__u64 index = first + half;
		if (index >= mapping_capacity)
			break;
		/* All ones when the middle starts at or below `address`; both are below 1 << 63. */
		__u64 take = ((address - mappings[index].start) >> 63) - 1;
		first += half & take;
		count -= half;
	}
	return first;
}

/* Index of the last of `count` rows from `first` on whose offset is at most `offset`, branch-free. */
static __always_inline __u64 last_row_before(const row_t *rows, __u64 first, __u64 count, __u64 offset)
{
	/* A page has at most 65536 rows, one per byte. */
	for (int i = 0; i < 17 && count > 1; i++) {
		__u64 half = count >> 1;
		__u64 index = first + half;
		if (index >= row_capacity)
			break;
		__u64 take = ((offset - ROW_OFFSET(rows[index])) >> 63) - 1;
		first += half & take;
		count -= half;
	}
	return first;
}

/* The index of the rule for `svma` in a file's pages, or minus an outcome.
 * Rule 0 is RULE_NONE by construction. */
static __always_inline int search_page(const struct mapping *mapping, __u64 svma)
{
	__u32 zero = 0;
	const struct page *page = bpf_map_lookup_elem(&pages, &zero);
	const row_t *all_rows = bpf_map_lookup_elem(&rows, &zero);
	if (!page || !all_rows)
		return -OUTCOME_TABLE_NOT_LOADED;
	__u64 offset = (svma >> PAGE_SHIFT_SVMA) - mapping->page_base;
	__u64 index = mapping->first_page + offset;
	if (offset >= mapping->page_count || index >= page_capacity)
		return 0;
	__u32 first_row = page[index].first_row, row_count = page[index].row_count;
	if (first_row == PAGE_NOT_LOADED)
		return -OUTCOME_TABLE_NOT_LOADED;
	if (!row_count)
		return 0;
	__u64 row = last_row_before(all_rows, first_row, row_count, svma & 0xffff);
	if (row >= row_capacity)
		return 0;
	return ROW_RULE(all_rows[row]);
}

/* The index of the rule for `address` in a process's mappings, or minus an outcome. */
__noinline int search_rule(__u64 address, __u32 first_mapping, __u32 mapping_count)
{
	__u32 zero = 0;
	const struct mapping *all_mappings = bpf_map_lookup_elem(&mappings, &zero);
	if (!all_mappings || !mapping_count)
		return -OUTCOME_UNKNOWN_MAPPING;
	__u64 index = last_mapping_before(all_mappings, first_mapping, mapping_count, address);
	if (index >= mapping_capacity)
		return -OUTCOME_UNKNOWN_MAPPING;
	const struct mapping *mapping = &all_mappings[index];
	if (address < mapping->start || address >= mapping->end)
		return -OUTCOME_UNKNOWN_MAPPING;
	if (mapping->kind == MAPPING_NO_ROWS)
		return 0;
	if (mapping->kind != MAPPING_ROWS)
		return -OUTCOME_TABLE_NOT_LOADED;
	return search_page(mapping, address - mapping->bias);
}

/* As search_rule, by the cache. */
static __always_inline int find_rule(struct scratch *scratch, __u64 address)
{
	struct walk *walk = &scratch->walk;
	__u64 hash = (address * 0x9e3779b97f4a7c15ull) >> 52;
	struct cached_rule *cached = &scratch->cache[hash & (CACHE_ENTRIES - 1)];
	if (cached->pc == address && cached->generation == walk->generation)
		return cached->rule;
	int rule = search_rule(address, walk->first_mapping, walk->mapping_count);
	if (rule >= 0) {
		cached->pc = address;
		cached->generation = walk->generation;
		cached->rule = rule;
	}
	return rule;
}

/* Whether the instruction before `address` is a call; opcodes E8 and FF /2, Intel SDM volume 2, CALL. */
__noinline int follows_call(__u64 address)
{
	__u8 code[8] = {};
	if (bpf_probe_read_user(code, 7, (void *)(address - 7)))
		return 0;
	if (code[2] == 0xe8)
		return 1;
	if (code[5] == 0xff && (code[6] & 0x38) == 0x10)
		return 1; /* call *reg, call *(reg) */
	if (code[4] == 0xff && ((code[5] & 0xf8) == 0x50 || code[5] == 0x14))
		return 1; /* call *disp8(reg), call *(reg,reg) */
	if (code[3] == 0xff && code[4] == 0x54)
		return 1; /* call *disp8(reg,reg) */
	if (code[1] == 0xff && ((code[2] & 0xf8) == 0x90 || code[2] == 0x15))
		return 1; /* call *disp32(reg), call *disp32(rip) */
	return code[0] == 0xff && code[1] == 0x94; /* call *disp32(reg,reg) */
}

static __always_inline int end_walk(struct scratch *scratch, __u32 outcome)
{
	scratch->walk.outcome = outcome;
	return 1;
}

/* The caller's frame begins: pc returned to, CFA is its rsp. Zero is where thread starts without
 * unwind information leave nothing behind. */
static __always_inline int enter_caller(struct scratch *scratch, __u64 pc, __u64 rsp)
{
	struct walk *walk = &scratch->walk;
	if (!pc)
		return end_walk(scratch, OUTCOME_COMPLETE);
	walk->pc = pc;
	scratch->registers[RSP] = rsp;
	walk->valid &= CARRIED;
	walk->interrupted = 0;
	return 0;
}

/* RULE_NONE: code without unwind information. */
static __always_inline int step_frame_pointer(struct scratch *scratch)
{
	struct walk *walk = &scratch->walk;
	__u64 rsp = scratch->registers[RSP], rbp = scratch->registers[RBP], caller_rbp, pc;

	/* Hand-written leaf functions use no stack: their return address is on top. */
	if (walk->interrupted && !read_stack(scratch, rsp, &pc) && pc >> 63 == 0 && pc > USER_PAGE_BYTES &&
	    follows_call(pc))
		return enter_caller(scratch, pc, rsp + 8);
	if (!(walk->valid & BIT(RBP)))
		return end_walk(scratch, OUTCOME_FRAME_POINTER_LOST);
	/* Where it was interrupted, a zero may as well be a number. */
	if (!rbp)
		return end_walk(scratch, walk->interrupted ? OUTCOME_FRAME_POINTER_LOST : OUTCOME_COMPLETE);
	if (rbp < rsp || rbp & 7 || read_stack(scratch, rbp, &caller_rbp) || read_stack(scratch, rbp + 8, &pc))
		return end_walk(scratch, OUTCOME_FRAME_POINTER_LOST);
	scratch->registers[RBP] = caller_rbp;
	walk->valid &= ~BIT(RBX);
	return enter_caller(scratch, pc, rbp + 16);
}

/* RULE_SIGNAL: all registers from the struct ucontext at rsp; its uc_mcontext.gregs begin
 * at byte 40 with r8..r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip (asm/sigcontext.h). */
static __always_inline int step_signal(struct scratch *scratch)
{
	struct walk *walk = &scratch->walk;
	__u64 saved[17];
	if (bpf_probe_read_user(saved, sizeof(saved), (void *)(scratch->registers[RSP] + 40)))
		return end_walk(scratch, OUTCOME_READ_FAILED);
	for (int i = 0; i < 8; i++)
		scratch->registers[8 + i] = saved[i];
	scratch->registers[5] = saved[8];
	scratch->registers[4] = saved[9];
	scratch->registers[RBP] = saved[10];
	scratch->registers[RBX] = saved[11];
	scratch->registers[1] = saved[12];
	scratch->registers[0] = saved[13];
	scratch->registers[2] = saved[14];
	scratch->registers[RSP] = saved[15];
	walk->pc = saved[16];
	walk->valid = ALL_REGISTERS;
	walk->interrupted = 1;
	return 0;
}

/* The caller's rbx and rbp from their slots; `base` is what slots count from. 0 on success. */
static __always_inline int restore_carried(struct scratch *scratch, struct rule rule, __u64 base)
{
	struct walk *walk = &scratch->walk;
	__u64 value;
	if (rule.rbp_slot == SLOT_RBP_LOST) {
		walk->valid &= ~BIT(RBP);
	} else if (rule.rbp_slot != SLOT_SAME || rule.kind == RULE_CFA_DEREF_RBP) {
		if (read_stack(scratch, base + 8 * (__s64)rule.rbp_slot, &value))
			return -1;
		scratch->registers[RBP] = value;
		walk->valid |= BIT(RBP);
	}
	if (rule.rbx_slot == SLOT_RBX_LOST) {
		walk->valid &= ~BIT(RBX);
	} else if (rule.rbx_slot != SLOT_SAME) {
		if (read_stack(scratch, base + 8 * (__s64)rule.rbx_slot, &value))
			return -1;
		scratch->registers[RBX] = value;
		walk->valid |= BIT(RBX);
	}
	return 0;
}

/* 0 with *cfa set, 1 when the walk ended. */
static __always_inline int find_cfa(struct scratch *scratch, struct rule rule, __u64 *cfa)
{
	struct walk *walk = &scratch->walk;
	if (rule.kind >= RULE_CFA_REGISTER) {
		__u32 number = (rule.kind - RULE_CFA_REGISTER) & (REGISTER_COUNT - 1);
		if (!(walk->valid >> number & 1))
			return end_walk(scratch, OUTCOME_REGISTER_UNKNOWN);
		*cfa = scratch->registers[number] + (__s64)rule.cfa_offset;
		return 0;
	}
	if (rule.kind == RULE_PLT) {
		*cfa = scratch->registers[RSP] + 8 + ((walk->pc & 15) >= (__u32)rule.cfa_offset ? 8 : 0);
		return 0;
	}
	if (rule.kind == RULE_CFA_DEREF_RSP || rule.kind == RULE_CFA_DEREF_RBP) {
		__u32 number = rule.kind == RULE_CFA_DEREF_RSP ? RSP : RBP;
		__u64 at = scratch->registers[number] + (__s64)(__s16)rule.cfa_offset;
		if (!(walk->valid >> number & 1))
			return end_walk(scratch, OUTCOME_REGISTER_UNKNOWN);
		if (read_stack(scratch, at, cfa))
			return end_walk(scratch, OUTCOME_READ_FAILED);
		*cfa += (__s64)(rule.cfa_offset >> 16);
		return 0;
	}
	if (rule.kind == RULE_CFA_DEREF_RSP_INDEXED) {
		__u32 number = (__u32)rule.cfa_offset >> 24 & (REGISTER_COUNT - 1);
		__u64 at = scratch->registers[RSP] + (__s64)(__s16)rule.cfa_offset + 8 * scratch->registers[number];
		if (!(walk->valid >> number & 1))
			return end_walk(scratch, OUTCOME_REGISTER_UNKNOWN);
		if (read_stack(scratch, at, cfa))
			return end_walk(scratch, OUTCOME_READ_FAILED);
		*cfa += (__s64)(__s8)(rule.cfa_offset >> 16);
		return 0;
	}
	return end_walk(scratch, OUTCOME_UNSUPPORTED_RULE);
}

/* RULE_RETURN_REGISTER. The CFA may be rsp itself: no walk takes this step twice in a row. */
static __always_inline int step_return_register(struct scratch *scratch, struct rule rule)
{
	struct walk *walk = &scratch->walk;
	__u32 number = (__u32)rule.cfa_offset >> 16 & (REGISTER_COUNT - 1);
	if (!walk->interrupted)
		return end_walk(scratch, OUTCOME_REGISTER_UNKNOWN);
	return enter_caller(scratch, scratch->registers[number], scratch->registers[RSP] + (__u16)rule.cfa_offset);
}

/* From a frame to its caller by the rule in `bits`. 1 when the walk ended. */
__noinline int apply_rule(struct scratch *scratch, __u64 bits)
{
	struct rule rule = {
		.cfa_offset = (__s32)bits,
		.rbp_slot = (__s16)(bits >> 32),
		.rbx_slot = (__s8)(bits >> 48),
		.kind = bits >> 56,
	};
	__u64 cfa, pc;
	if (!scratch)
		return 1;
	if (rule.kind == RULE_NONE)
		return step_frame_pointer(scratch);
	if (rule.kind == RULE_END)
		return end_walk(scratch, OUTCOME_COMPLETE);
	if (rule.kind == RULE_SIGNAL)
		return step_signal(scratch);
	if (rule.kind == RULE_RETURN_REGISTER)
		return step_return_register(scratch, rule);
	if (find_cfa(scratch, rule, &cfa))
		return 1;
	/* A caller's frame is above its callee's; this also bounds walks over hostile stacks. */
	if (cfa <= scratch->registers[RSP])
		return end_walk(scratch, OUTCOME_NO_PROGRESS);
	__u64 base = rule.kind == RULE_CFA_DEREF_RBP ? scratch->registers[RBP] : cfa;
	if (restore_carried(scratch, rule, base) || read_stack(scratch, cfa - 8, &pc))
		return end_walk(scratch, OUTCOME_READ_FAILED);
	return enter_caller(scratch, pc, cfa);
}

/* What the loop carries; pointers to map values survive on the stack. */
struct loop {
	struct scratch *scratch;
	const __u64 *rules; /* struct rule, as words */
};

/* One frame: note it, find its rule, go to its caller. 1 ends the loop. */
static long walk_frame(__u32 unused, struct loop *loop)
{
	struct scratch *scratch = loop->scratch;
	struct walk *walk = &scratch->walk;
	__u64 index = (__u64)scratch->sample.kernel_count + walk->frame_count;
	/* kernel_count never exceeds its maximum; said for the verifier. */
	if (index >= FRAME_CAPACITY)
		return end_walk(scratch, OUTCOME_TRUNCATED_DEPTH);
	if (walk->pc >> 63)
		return end_walk(scratch, OUTCOME_UNKNOWN_MAPPING);
	scratch->frames[index] = walk->pc | (walk->interrupted ? FRAME_INTERRUPTED : 0);
	walk->frame_count++;

	int rule = find_rule(scratch, walk->interrupted ? walk->pc : walk->pc - 1);
	if (rule < 0)
		return end_walk(scratch, -rule);
	return apply_rule(scratch, loop->rules[rule & (RULE_CAPACITY - 1)]) != 0;
}

/* Walks from scratch->saved; fills scratch->frames behind the kernel's. */
static __always_inline void walk_user_stack(struct scratch *scratch, const struct process *process)
{
	struct walk *walk = &scratch->walk;
	const struct saved_registers *saved = &scratch->saved;
	__u64 *registers = scratch->registers;
	registers[0] = saved->rax, registers[1] = saved->rdx, registers[2] = saved->rcx, registers[3] = saved->rbx;
	registers[4] = saved->rsi, registers[5] = saved->rdi, registers[6] = saved->rbp, registers[7] = saved->rsp;
	registers[8] = saved->r8, registers[9] = saved->r9, registers[10] = saved->r10, registers[11] = saved->r11;
	registers[12] = saved->r12, registers[13] = saved->r13, registers[14] = saved->r14, registers[15] = saved->r15;
	scratch->window_start = 0;
	scratch->window_bytes = 0;
	*walk = (struct walk){
		.pc = saved->rip,
		.first_mapping = process->first_mapping,
		.mapping_count = process->mapping_count,
		.generation = process->generation,
		.valid = ALL_REGISTERS,
		.interrupted = 1,
		.outcome = OUTCOME_TRUNCATED_DEPTH, /* unless the loop ends earlier */
	};
	__u32 zero = 0;
	struct loop loop = { .scratch = scratch, .rules = bpf_map_lookup_elem(&rules, &zero) };
	if (!loop.rules) /* cannot be */
		return;
	bpf_loop(MAX_USER_FRAMES, walk_frame, &loop, 0);
	/* A frame that never found its mapping in a process whose mappings are not known at all. */
	if (walk->outcome == OUTCOME_UNKNOWN_MAPPING && !walk->generation)
		walk->outcome = OUTCOME_MAPPINGS_NOT_LOADED;
}

#endif

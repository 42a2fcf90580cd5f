/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only
 *
 * Everything that crosses between the kernel side and userland. Fixed-width
 * fields, widest first, padding explicit, sizes asserted here and, from the
 * other side, in src/sys/abi.rs.
 */
#ifndef TXPROF_SHARED_H
#define TXPROF_SHARED_H

/* ---- unwind tables -------------------------------------------------------
 *
 * A pc becomes a rule in three steps:
 *
 *   mapping  (binary search in the process's slice of `mappings`)
 *   page     pages[first_page + (svma >> 16) - page_base]: 64 KiB of code
 *   row      binary search in rows[first_row .. first_row + row_count):
 *            the last row whose `offset` is at most svma & 0xffff
 *
 * The first row of a page has offset 0: a row that begins in an earlier page
 * is repeated. A range no unwind information covers has a row with RULE_NONE.
 */

#define PAGE_SHIFT_SVMA 16

/* One row in 4 bytes: offset in its page in the low half, index into `rules` in the high half. */
typedef __u32 row_t;
#define ROW_OFFSET(row) ((row) & 0xffff)
#define ROW_RULE(row) ((row) >> 16)

enum rule_kind {
	RULE_NONE = 0,        /* no unwind information here: try the frame pointer */
	RULE_END = 1,         /* the thread's first function: nothing called it */
	RULE_SIGNAL = 2,      /* sigreturn trampoline: struct ucontext is at rsp */
	RULE_UNSUPPORTED = 3, /* there is information that a rule cannot hold */
	RULE_PLT = 4,         /* CFA = rsp + 8 + ((pc & 15) >= cfa_offset ? 8 : 0) */
	RULE_CFA_DEREF_RSP = 5, /* CFA = *(rsp + low16(cfa_offset)) + high16(cfa_offset) */
	RULE_CFA_DEREF_RBP = 6, /* CFA = *(rbp + low16) + high16; slots count from rbp, rbp is always saved */
	/* CFA = *(rsp + low16 + 8 * register) + signed byte 2; the register's DWARF number is the low half of byte 3 */
	RULE_CFA_DEREF_RSP_INDEXED = 7,
	/* CFA = register + cfa_offset; RULE_CFA_REGISTER + DWARF register number (0..15).
	 * rsp = 7, rbp = 6, rbx = 3 are carried through the walk, the others are
	 * known only in the interrupted frame and behind a signal frame. */
	RULE_CFA_REGISTER = 16,
};

/* Slots: the caller's register is at CFA + 8 * slot. */
#define SLOT_SAME 0        /* not saved: the caller's value is the current one */
#define SLOT_RBX_LOST (-128)
#define SLOT_RBP_LOST (-32768)

/* How to get from a frame to its caller. The return address is at CFA - 8
 * and the caller's rsp is the CFA, in every kind that has a CFA. */
struct rule {
	__s32 cfa_offset;
	__s16 rbp_slot;
	__s8 rbx_slot;
	__u8 kind; /* enum rule_kind */
};
_Static_assert(sizeof(struct rule) == 8, "struct rule");

/* Rows of one 64 KiB page of code, an element of `pages`. */
struct page {
	__u32 first_row; /* index into `rows`; PAGE_NOT_LOADED: ask userland */
	__u32 row_count; /* 0: no unwind information in this page */
};
_Static_assert(sizeof(struct page) == 8, "struct page");
#define PAGE_NOT_LOADED 0xffffffffu

enum mapping_kind {
	MAPPING_NO_ROWS = 0,    /* generated code and the like: frame pointer only */
	MAPPING_ROWS = 1,       /* pages below are filled or say that they are not */
	MAPPING_NOT_LOADED = 2, /* a file whose table was not asked for yet */
};

/* One executable range of a process, an element of `mappings`; a process's are sorted by start. */
struct mapping {
	__u64 start; /* AVMA */
	__u64 end;   /* AVMA, exclusive */
	__u64 bias;  /* AVMA - SVMA */
	__u32 first_page;
	__u32 page_base; /* svma >> 16 of the page at first_page */
	__u32 page_count;
	__u32 kind; /* enum mapping_kind */
};
_Static_assert(sizeof(struct mapping) == 40, "struct mapping");

/* A target, value of `processes`, key: tgid as userland says pid. Replaced as a whole. The map
 * hands replaced elements out again at once, so a reader checks that what it copied is its own. */
struct process {
	__u32 first_mapping;
	__u32 mapping_count;
	/* Names this state of the mappings: a pc means the same rule in all processes
	 * and samples of one generation. 0: mappings not known. */
	__u32 generation;
	__u32 pid; /* the key */
};
_Static_assert(sizeof(struct process) == 16, "struct process");

/* ---- what goes up the ring ---------------------------------------------- */

enum event_type {
	EVENT_SAMPLE = 1,
	EVENT_FORK = 2, /* a target's child begins; `other` is the parent's pid */
	EVENT_EXEC = 3, /* a target, or any process while all are watched, runs a new program */
	EVENT_EXIT = 4, /* a target's last thread is gone */
};

#define MAX_USER_FRAMES 1024
#define MAX_KERNEL_FRAMES 128
#define COMM_BYTES 16

/* Set in a user frame: the pc was interrupted, not returned to; look it up as it is. */
#define FRAME_INTERRUPTED (1ull << 63)

/* First bytes of every record. Time is CLOCK_MONOTONIC. */
struct event {
	__u64 time_ns;
	__u32 pid;
	__u32 type; /* enum event_type */
};
_Static_assert(sizeof(struct event) == 16, "struct event");

/* EVENT_FORK, EVENT_EXEC, EVENT_EXIT. */
struct process_event {
	struct event head;
	__u32 other; /* EVENT_FORK: the parent's pid, else 0 */
	__u32 padding;
	char comm[COMM_BYTES];
};
_Static_assert(sizeof(struct process_event) == 40, "struct process_event");

/* EVENT_SAMPLE; followed by kernel_count, then user_count frames of 8 bytes, each leaf first. */
struct sample_event {
	struct event head;
	__u64 period; /* what the event was set to: ns for cpu-clock, else cycles */
	__u32 tid;
	__u32 generation;
	__u16 kernel_count;
	__u16 user_count;
	__u8 outcome; /* outcomes.def */
	__u8 padding[3];
	char thread_comm[COMM_BYTES];
	char process_comm[COMM_BYTES];
};
_Static_assert(sizeof(struct sample_event) == 72, "struct sample_event");

/* Indices of `counters`. */
enum counter {
	COUNTER_SAMPLES = 0,    /* samples of targets that were taken */
	COUNTER_RING_FULL = 1,  /* of these, lost because the ring was full */
	COUNTER_RUN_NS = 2,     /* time spent in runs that sampled */
	COUNTER_PROCESSES_FULL = 3, /* children not followed: `processes` was full */
	COUNTER_EVENTS_LOST = 4, /* fork, exec or exit events lost because the ring was full */
	COUNTER_COUNT = 5,
};

#endif

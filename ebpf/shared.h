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
	/* CFA = rsp + low16; the return address is in the register of that DWARF number in high16, not on the stack.
	 * Only for interrupted frames: vfork of the C library, whose caller's stack the child changes. */
	RULE_RETURN_REGISTER = 8,
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
 * and the caller's rsp is the CFA, in every kind that has a CFA, but for RULE_RETURN_REGISTER. */
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
	__u32 python; /* index into `pythons`; 0: no Python, or none that is known */
	__u32 padding;
};
_Static_assert(sizeof(struct process) == 24, "struct process");

/* ---- Python ---------------------------------------------------------------- */

#define PYTHON_ABSENT 0xffffu /* an offset that this version does not have */

enum python_form {
	PYTHON_OBJECT_BYTES = 0, /* 3.7 to 3.9: f_lasti counts bytes; each frame entered the loop */
	PYTHON_OBJECT_UNITS = 1, /* 3.10: f_lasti counts units of two bytes */
	PYTHON_ENTRY_FLAG = 2,   /* 3.11: frame_owner is the offset of is_entry */
	PYTHON_SHIM = 3,         /* 3.12 on: a frame with owner >= shim_owner stands below an entry */
};

/* Sizes of the blocks that one copy takes of each structure. */
#define PYTHON_THREAD_BYTES 512
#define PYTHON_FRAME_BYTES 128
#define PYTHON_CODE_BYTES 256

/* An interpreter: where it is and how it is laid out, an element of `pythons`. Offsets as in
 * src/unwind/python/layout.rs, checked by userland to lie inside the blocks above. */
struct python {
	__u64 runtime;   /* AVMA of _PyRuntime */
	__u64 code_type; /* AVMA of PyCode_Type */
	__u64 text_type; /* AVMA of PyUnicode_Type */
	__u32 instance;  /* names this interpreter; shared by forked children */
	__u32 runtime_interpreters_head;
	__u32 runtime_thread_current; /* 0: none */
	__u32 interpreter_next;
	__u32 interpreter_threads_head;
	__u32 thread_active_mask;
	__u32 thread_running_task; /* 0: not wanted, or not told by this version */
	__u16 thread_bytes; /* how much of the structure the offsets below need */
	__u16 thread_next;
	__u16 thread_interpreter;
	__u16 thread_id;
	__u16 thread_status;
	__u16 thread_cframe; /* PYTHON_ABSENT: thread_frame is in the thread state */
	__u16 thread_frame;
	__u16 frame_bytes;
	__u16 frame_previous;
	__u16 frame_code;
	__u16 frame_instruction;
	__u16 frame_owner;
	__u16 code_bytes;
	__u16 code_first_line;
	__u16 code_name; /* the qualified name where there is one */
	__u16 code_file_name;
	__u16 code_line_table;
	__u16 code_instructions;
	__u16 text_hash;
	__u16 text_length;
	__u16 text_state;
	__u16 text_ascii;
	__u16 text_compact;
	__u16 bytes_size;
	__u16 bytes_data;
	__u16 task_name;
	__u8 text_kind_shift;
	__u8 form; /* enum python_form */
	__u8 shim_owner;
	__u8 padding[5];
};
_Static_assert(sizeof(struct python) == 112, "struct python");

/* ---- what goes up the ring ---------------------------------------------- */

enum event_type {
	EVENT_SAMPLE = 1,
	EVENT_FORK = 2, /* a target's child begins; `other` is the parent's pid */
	EVENT_EXEC = 3, /* a target, or any process while all are watched, runs a new program */
	EVENT_EXIT = 4, /* a target's last thread is gone */
	EVENT_CODE = 5, /* a Python code object, before the first sample that names it */
	EVENT_TASK = 6, /* the name of an asyncio task, likewise */
};

#define MAX_USER_FRAMES 1024
#define MAX_KERNEL_FRAMES 128
#define MAX_PYTHON_FRAMES 1024
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

/* EVENT_SAMPLE; followed by kernel_count, user_count and python_count words of 8 bytes,
 * each part leaf first. A Python frame is two words, see PYTHON_FRAME_*. */
struct sample_event {
	struct event head;
	__u64 period; /* what the event was set to: ns for cpu-clock, else cycles */
	__u64 thread_pointer; /* of a thread that the interpreter knows, else 0: its thread_id there */
	__u64 task; /* the asyncio task that ran, see TASK_*; 0: none, or not wanted */
	__u32 tid;
	__u32 generation;
	__u32 python_instance;
	__u16 kernel_count;
	__u16 user_count;
	__u16 python_count; /* words, twice the number of frames */
	__u8 outcome;        /* outcomes.def */
	__u8 python_outcome; /* outcomes.def, of the walk along the interpreter's frames */
	__u8 flags;          /* SAMPLE_* */
	__u8 padding[3];
	char thread_comm[COMM_BYTES];
	char process_comm[COMM_BYTES];
};
_Static_assert(sizeof(struct sample_event) == 96, "struct sample_event");

#define SAMPLE_PYTHON_THREAD 1 /* the interpreter knows the thread */
#define SAMPLE_HOLDS_GIL 2     /* and it held the interpreter's lock */

/* First word of a Python frame: address of the code object and flags; second word: cookie of
 * its content in the high half, offset of the instruction in bytes in the low one
 * (PYTHON_NOT_STARTED: none was executed yet). */
#define PYTHON_FRAME_ADDRESS ((1ull << 56) - 1)
#define PYTHON_FRAME_ENTRY (1ull << 63) /* it entered the evaluation loop from C */
#define PYTHON_FRAME_EMPTY (1ull << 62) /* not a frame: an evaluation loop without any */
#define PYTHON_FRAME_UNREAD (1ull << 61) /* the code object could not be read or is none */
#define PYTHON_NOT_STARTED 0xffffffffu

/* A task that nobody named: the N of its name Task-N in the low bits. Else names a name told by EVENT_TASK. */
#define TASK_NUMBERED (1ull << 63)

#define CODE_NAME_BYTES 384
#define CODE_FILE_BYTES 512
#define CODE_LINES_BYTES 4096

/* EVENT_TASK: as EVENT_CODE, with the sample's `task` in `code`, its name in `name`, and nothing else.
 * EVENT_CODE: what a code object says of itself, copied by the sampled thread's own
 * interrupt. Strings are whole `str` objects, header included; the tail is as long as lines_bytes says. */
struct code_event {
	struct event head;
	__u64 code; /* its address */
	__u64 line_table; /* address of the bytes of its line table */
	__u32 cookie;
	__u32 instance;
	__u32 first_line;
	__u32 line_table_bytes; /* true size; lines_bytes of them follow */
	__u16 name_bytes;
	__u16 file_bytes;
	__u16 lines_bytes;
	__u16 padding;
	__u8 name[CODE_NAME_BYTES];
	__u8 file[CODE_FILE_BYTES];
	__u8 lines[CODE_LINES_BYTES];
};
_Static_assert(sizeof(struct code_event) == 56 + 384 + 512 + 4096, "struct code_event");

/* Indices of `counters`. */
enum counter {
	COUNTER_SAMPLES = 0,    /* samples of targets that were taken */
	COUNTER_RING_FULL = 1,  /* of these, lost because the ring was full */
	COUNTER_RUN_NS = 2,     /* time spent in runs that sampled */
	COUNTER_PROCESSES_FULL = 3, /* children not followed: `processes` was full */
	COUNTER_EVENTS_LOST = 4, /* fork, exec or exit events lost because the ring was full */
	COUNTER_CODES_LOST = 5, /* code objects whose record found no room in the ring: told again later */
	COUNTER_COUNT = 6,
};

#endif

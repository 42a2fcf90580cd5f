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
	__u32 runtime_bytes; /* size of _PyRuntime, which holds the interpreter's lock */
	__u32 interpreter_gil_holder; /* 0: runtime_thread_current tells it */
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
	__u16 code_flags;
	__u16 frame_locals; /* the first local variable */
	__u8 text_kind_shift;
	__u8 form; /* enum python_form */
	__u8 shim_owner;
	__u8 padding;
};
_Static_assert(sizeof(struct python) == 120, "struct python");

/* ---- what goes up the ring ---------------------------------------------- */

enum event_type {
	EVENT_SAMPLE = 1,
	EVENT_FORK = 2, /* a target's child begins; `other` is the parent's pid */
	EVENT_EXEC = 3, /* a target, or any process while all are watched, runs a new program */
	EVENT_EXIT = 4, /* a target's last thread is gone */
	EVENT_CODE = 5, /* a Python code object, before the first sample that names it */
	EVENT_TASK = 6, /* the name of an asyncio task, likewise */
	EVENT_WAIT = 7, /* a target's thread waited, or begins to (WAIT_OPEN), with its stack */
	EVENT_WAIT_MORE = 8, /* how long a wait took whose stack was told before */
	EVENT_WAKE = 9, /* a thread is woken from a wait, with the stack of who wakes it */
	EVENT_THREAD = 10, /* a target's thread ends, with its sums */
	EVENT_TRANSFER = 11, /* a target received or sent on a socket that speaks HTTP */
	EVENT_HANG_UP = 12, /* such a socket was shut down; with LANE_RECEIVED, its other end will send no more */
	EVENT_ERRAND = 13, /* a coroutine wakes a thread, perhaps one of a pool that it gives work, or that one tells its loop something */
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
	__u64 coroutine; /* address of the frame of the outermost coroutine that ran; 0: none */
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
_Static_assert(sizeof(struct sample_event) == 104, "struct sample_event");

#define SAMPLE_PYTHON_THREAD 1 /* the interpreter knows the thread */
#define SAMPLE_HOLDS_GIL 2     /* and it held the interpreter's lock */
#define SAMPLE_THINNED 4       /* stands for `base_share` ticks */

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

/* ---- off-CPU ------------------------------------------------------------ */

/* What a thread is about, as the scheduler sees it. */
enum thread_state {
	THREAD_RUNNING = 1, /* on a CPU */
	THREAD_QUEUED = 2,  /* runnable, waiting for a CPU */
	THREAD_BLOCKED = 3, /* waiting for something else */
};

/* Longest kernel stack of a wait. */
#define MAX_WAIT_KERNEL_FRAMES 32

#define WAIT_OPEN 1      /* it begins; EVENT_WAIT_MORE of the same sequence tells its times */
#define WAIT_GIL 2       /* for the lock of the Python interpreter */
#define WAIT_NO_WAKER 4  /* nobody was seen to end it */
#define WAIT_INTERRUPT 8 /* woken on top of whatever ran then; of what that sends, for it */
#define WAIT_SAMPLED 16  /* stands for others like it, too: the sums of these are thin_* of the thread */
#define WAIT_TOLD 32     /* an EVENT_WAKE tells who ended it */
#define WAIT_UNTOLD 64   /* Python's lock was handed over; without WAIT_TOLD, nobody is told by whom */

/* What a descriptor stands for. */
struct wait_object {
	__u64 inode;
	__u8 address[16]; /* of the other end, network order; 4 of AF_INET, 16 of AF_INET6 */
	__u16 local_port;
	__u16 remote_port;
	__u16 mode;   /* S_IFMT bits of the inode; 0: there is no such descriptor, or it is an anonymous inode */
	__u16 family; /* AF_* of a socket */
};
_Static_assert(sizeof(struct wait_object) == 32, "struct wait_object");

/* EVENT_WAIT: followed by a struct sample_event and its frames, the stack of the thread that waited.
 * EVENT_WAKE: likewise, but the stack is that of who woke it; `call` is that of the waker. Or nothing follows, and
 * `holder` and `holder_frame` are the waker's, which handed over Python's lock.
 * EVENT_WAIT_MORE: nothing follows. */
struct wait_event {
	struct event head; /* of the thread that waits */
	__u64 began_ns;    /* when it was off the CPU first */
	__u64 blocked_ns;
	__u64 queue_ns;    /* woken or preempted, until it ran */
	__u64 run_sum_ns;  /* of the thread, up to `head.time_ns` */
	__u64 queue_sum_ns;
	__u64 stands_for_ns; /* WAIT_SAMPLED: so much time of the thread in waits like it */
	__u64 argument;    /* the first one of the system call */
	__u64 holder;      /* WAIT_GIL: thread pointer of who has the lock now, or had it last; 0: not known */
	struct wait_object object; /* which `argument` names, where it is a descriptor */
	__u64 holder_frame[2]; /* its innermost Python frame, as in a sample; 0: not known */
	__u32 tid;
	__u32 sequence;    /* names the thread's wait, from 1 on */
	__s32 call;        /* number of the system call; -1: outside of any */
	__u32 waker_pid;
	__u32 waker_tid;
	__s32 waker_call;
	__u8 flags;        /* WAIT_* */
	__u8 padding[7];
	char waker_comm[COMM_BYTES];
};
_Static_assert(sizeof(struct wait_event) == 176, "struct wait_event");

/* EVENT_THREAD, and what the iteration over all threads writes: the sums of a thread from when it was
 * first seen to `head.time_ns`. run + queue + blocked is that time. */
struct thread_event {
	struct event head;
	__u64 run_ns;
	__u64 queue_ns;
	__u64 blocked_ns;
	__u64 short_queue_ns;   /* of these, in waits that were too short for a stack */
	__u64 short_blocked_ns;
	__u64 thin_queue_ns;    /* of these, in waits of which only some have a stack, marked WAIT_SAMPLED */
	__u64 thin_blocked_ns;
	__u64 bare_queue_ns;    /* of these, in waits whose stack could not be told */
	__u64 bare_blocked_ns;
	__u64 open_queue_ns;    /* of these, in a wait that has not ended */
	__u64 open_blocked_ns;
	__u32 short_count;
	__u32 thin_count;
	__u32 bare_count;
	__u32 tid;
	__u32 open_sequence;    /* of a wait that was told open; 0: none is */
	__u32 state;            /* enum thread_state */
	__u32 parent_tid;       /* which made it, while it was watched; else 0 */
	__s32 call;             /* that it is in; -1: none */
	__u64 argument;
	__u64 thread_pointer;
	__u64 switches;         /* how often it has left a CPU */
	__u64 born_ns;          /* with parent_tid: when */
	__u32 kernel_count;     /* words of kernel stack behind struct saved_registers */
	__u8 flags;             /* WAIT_GIL */
	__u8 more_padding[3];
	char thread_comm[COMM_BYTES];
	char process_comm[COMM_BYTES];
};
_Static_assert(sizeof(struct thread_event) == 208, "struct thread_event");

/* ---- requests ----------------------------------------------------------- */

#define LANE_RECEIVED 1
#define LANE_SENT 2
#define LANE_HEAD_BYTES 4096 /* of a received message */
#define LANE_SMALL_BYTES 1024 /* of a sent one, and of received ones that are no longer */
#define LANE_TINY_BYTES 256 /* of what is no longer than that: what is not touched is not fetched into caches either */
#define LANE_TAIL_BYTES 8

/* EVENT_TRANSFER, followed by head_bytes and whatever room was left; EVENT_HANG_UP. The sums are those of the thread
 * that did it, as in struct thread_event; 0: not accounted for. */
struct lane_event {
	struct event head;
	__u64 socket; /* names it for as long as the machine runs */
	__u64 moved;  /* bytes */
	__u64 run_ns;
	__u64 queue_ns;
	__u64 blocked_ns;
	__u64 thin_queue_ns;
	__u64 thin_blocked_ns;
	__u64 short_queue_ns;
	__u64 short_blocked_ns;
	__u64 coroutine; /* of what is sent: as in a sample, of threads that were sampled in one; else 0 */
	__u8 client[16]; /* address of the other end, network order; 4 of AF_INET, 16 of AF_INET6 */
	__u32 tid;
	__u16 client_port;
	__u16 family;
	__u16 head_bytes;
	__u8 direction; /* LANE_RECEIVED, LANE_SENT */
	__u8 tail_bytes;
	__u32 padding;
	__u8 tail[LANE_TAIL_BYTES];
	char comm[COMM_BYTES];
};
_Static_assert(sizeof(struct lane_event) == 152, "struct lane_event");

#define ERRAND_FRAMES 8
#define ERRAND_LOCALS 8

/* A call of a Python function, as in a sample, and the first of its local variables. */
struct errand_call {
	__u64 frame[2];
	__u64 first_local;
};

/* EVENT_ERRAND: what may be work that a coroutine gives to a thread of a pool, or the end of that. The calls are those of
 * the pool's thread, where it waits, or where it tells; what is not there or could not be read is 0. */
struct errand_event {
	struct event head; /* of the pool's thread */
	__u64 coroutine;   /* which gave it, as in a sample; 0: its thread told a loop something */
	__u64 locals[ERRAND_LOCALS]; /* of who gave it, in its innermost call */
	struct errand_call calls[ERRAND_FRAMES]; /* leaf first */
	__u32 tid;
	__u32 giver_tid;   /* whose coroutine it is */
};
_Static_assert(sizeof(struct errand_event) == 288, "struct errand_event");

/* Indices of `counters`. */
enum counter {
	COUNTER_SAMPLES = 0,    /* samples of targets that were taken */
	COUNTER_RING_FULL = 1,  /* of these, lost because the ring was full */
	COUNTER_RUN_NS = 2,     /* time spent in runs that sampled */
	COUNTER_PROCESSES_FULL = 3, /* children not followed: `processes` was full */
	COUNTER_EVENTS_LOST = 4, /* fork, exec or exit events lost because the ring was full */
	COUNTER_CODES_LOST = 5, /* code objects whose record found no room in the ring: told again later */
	COUNTER_WAITS = 6, /* waits whose stack was taken */
	COUNTER_OFF_CPU_NS = 7, /* time spent on switches, wake-ups and the stacks of waits */
	COUNTER_THREADS_LOST = 8, /* threads that found no room, or whose end found none in the ring */
	COUNTER_LANE_LOST = 9, /* transfers that found no room in the ring */
	COUNTER_SWITCHES_MENDED = 10, /* times that a thread came to a CPU or left it unseen */
	COUNTER_TLS = 11, /* connections to targets that began with TLS: what is asked there is not seen */
	COUNTER_HTTP2 = 12, /* likewise with HTTP/2 */
	COUNTER_ERRANDS_UNSEEN = 13, /* times that a thread on an errand told a loop something that was not seen */
	COUNTER_COUNT = 14,
};

#endif

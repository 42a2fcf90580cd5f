/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only
 *
 * The walk along an interpreter's own frames, in the same interrupt as the
 * native walk and inside the interrupted thread, so that the two belong
 * together and neither is torn. Both go up as they are; userland joins them.
 *
 * The thread's state is found without symbols that shipped builds lack: it is
 * the one in the runtime's lists whose thread_id is the thread pointer.
 * A code object's names are copied when it is first met, because the process
 * may be gone when they are wanted.
 *
 * All memory read here is the target's: offsets into copied blocks are masked,
 * lengths and loops bounded, and nothing read is followed without such a bound.
 */
#ifndef TXPROF_PYTHON_H
#define TXPROF_PYTHON_H

#include "unwind.h"

/* Thread states and interpreters looked at by one search, some 100 ns each. Threads of a process
 * with more are seen without Python. */
#define MAX_SEARCH_STEPS 4096

/* How long the answer of a search holds where nothing contradicts it. */
#define SEARCH_VALID_NS 100000000ull

struct found_thread {
	__u64 thread; /* address of the PyThreadState; 0: none */
	__u64 searched_ns;
	__u64 interpreters_head; /* then; a new interpreter goes to the front of the list */
	__u32 instance;
	__u32 found; /* how many there were */
	__u32 interpreters; /* likewise; a thread enters and leaves further ones with new states */
	__u32 runs_coroutines; /* it was met in one */
};

/* key: tid; written and read by samples of that thread. Full: the thread that was
 * sampled longest ago is searched again. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct found_thread);
} found_threads SEC(".maps");

/* key: hash of instance, address and content of a code object that userland was told of; the
 * value says nothing. Full: the one met longest ago is told again. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, __u32);
} told_codes SEC(".maps");

/* CO_COROUTINE of co_flags, Include/cpython/code.h: the code of an `async def`. */
#define CODE_COROUTINE 0x80

/* Fields of a copied block; the masks keep any offset inside it. */
#define WORD_AT(block, offset) (*(__u64 *)((block) + ((offset) & (sizeof(block) - 8))))
#define INT_AT(block, offset) (*(__u32 *)((block) + ((offset) & (sizeof(block) - 4))))
#define BYTE_AT(block, offset) (*(__u8 *)((block) + ((offset) & (sizeof(block) - 1))))

static __always_inline int read_word(__u64 address, __u64 *value)
{
	return bpf_probe_read_user(value, 8, (void *)address);
}

/* What a frame calls its code, without the tags of 3.14. */
static __always_inline __u64 code_address(__u64 word)
{
	return word & ~7ull & PYTHON_FRAME_ADDRESS;
}

static __always_inline int read_thread(struct scratch *scratch, __u64 address)
{
	__u32 bytes = scratch->python.thread_bytes;
	if (bytes > PYTHON_THREAD_BYTES || bpf_probe_read_user(scratch->python_thread, bytes, (void *)address))
		return -1;
	return 0;
}

static __always_inline int is_own_thread(struct scratch *scratch)
{
	return WORD_AT(scratch->python_thread, scratch->python.thread_id) == scratch->python_walk.thread_pointer;
}

/* Whether the copied thread state is the current one of its thread, which then holds the lock: it
 * is made current behind taking the lock and gives that up before (Python/pystate.c, 3.12 to 3.14). */
static __always_inline int is_active_thread(struct scratch *scratch)
{
	return INT_AT(scratch->python_thread, scratch->python.thread_status) & scratch->python.thread_active_mask;
}

/* One interpreter or one thread state. 1 ends the loop. */
static long search_thread(__u32 unused, struct loop *loop)
{
	struct scratch *scratch = loop->scratch;
	struct python_walk *walk = &scratch->python_walk;
	const struct python *python = &scratch->python;
	__u64 address = walk->search_thread;
	if (!address) {
		__u64 interpreter = walk->search_interpreter;
		walk->interpreters++;
		return !interpreter ||
		       read_word(interpreter + python->interpreter_threads_head, &walk->search_thread) ||
		       read_word(interpreter + python->interpreter_next, &walk->search_interpreter);
	}
	if (read_thread(scratch, address))
		return 1;
	walk->search_thread = WORD_AT(scratch->python_thread, python->thread_next);
	if (is_own_thread(scratch) && address != walk->thread) {
		if (!walk->thread) {
			walk->thread = address;
			return 0;
		}
		__u64 other = address;
		if (is_active_thread(scratch)) {
			other = walk->thread;
			walk->thread = address;
		}
		walk->others[walk->other_count++ & (MAX_OTHER_STATES - 1)] = other;
	}
	return 0;
}

/* Looks at all states of all interpreters. `thread`, if it is not 0, is the current one already. */
static __always_inline void search(struct scratch *scratch, __u64 interpreters_head)
{
	struct python_walk *walk = &scratch->python_walk;
	struct loop loop = { .scratch = scratch };
	walk->search_interpreter = interpreters_head;
	bpf_loop(MAX_SEARCH_STEPS, search_thread, &loop, 0);
}

/* Copies the sampled thread's current state to python_thread. 0 on success; 1: the interpreter does not know
 * the thread. */
__noinline int find_thread(struct scratch *scratch, __u32 tid, __u64 now)
{
	if (!scratch)
		return 1;
	struct python_walk *walk = &scratch->python_walk;
	const struct python *python = &scratch->python;
	__u64 current, head, next;
	if (read_word(python->runtime + python->runtime_interpreters_head, &head))
		return 1;
	if (python->runtime_thread_current &&
	    !read_word(python->runtime + python->runtime_thread_current, &current) && current &&
	    !read_thread(scratch, current) && is_own_thread(scratch)) {
		scratch->sample.flags |= SAMPLE_HOLDS_GIL;
		walk->thread = current;
		if (read_word(head + python->interpreter_next, &next) || !next)
			return 0; /* there is one interpreter */
		search(scratch, head);
		return read_thread(scratch, current);
	}
	struct found_thread *known = bpf_map_lookup_elem(&found_threads, &tid);
	if (known && known->instance == python->instance) {
		int is_recent = now - known->searched_ns < SEARCH_VALID_NS && known->interpreters_head == head &&
				known->interpreters < 2;
		/* A new thread may not be in the list yet, and live for one request only. */
		if (!known->thread && is_recent && now - known->searched_ns < SEARCH_VALID_NS / 20)
			return 1;
		if (known->thread && known->searched_ns && known->found < 2 &&
		    !read_thread(scratch, known->thread) && is_own_thread(scratch) &&
		    (is_active_thread(scratch) || !python->thread_active_mask || is_recent)) {
			walk->thread = known->thread;
			return 0;
		}
	}
	search(scratch, head);
	struct found_thread answer = {
		.thread = walk->thread,
		.searched_ns = now,
		.interpreters_head = head,
		.instance = python->instance,
		.found = walk->other_count + !!walk->thread,
		/* The end of the list was counted, too. */
		.interpreters = walk->interpreters - 1,
		.runs_coroutines = known && known->instance == python->instance && known->runs_coroutines,
	};
	bpf_map_update_elem(&found_threads, &tid, &answer, BPF_ANY);
	return !walk->thread || read_thread(scratch, walk->thread) || !is_own_thread(scratch);
}

/* Copies the `str` at `address`, header included, as far as there is room. The bytes copied. */
static __always_inline __u32 copy_text(struct scratch *scratch, __u64 address, __u8 *target, __u32 capacity)
{
	const struct python *python = &scratch->python;
	__u64 length = 0;
	__u32 state = 0;
	if (read_word(address + python->text_length, &length) ||
	    bpf_probe_read_user(&state, 4, (void *)(address + python->text_state)))
		return 0;
	if (length > capacity)
		length = capacity;
	state >>= python->text_kind_shift & 31; /* kind: 3 bits, compact, ascii */
	__u64 bytes = state & 16 ? python->text_ascii + length : python->text_compact + (state & 7) * length;
	if (bytes > capacity)
		bytes = capacity;
	/* `capacity` is a constant; said again because the verifier forgets it. */
	if (bytes > CODE_FILE_BYTES || bpf_probe_read_user(target, bytes, (void *)address))
		return 0;
	return bytes;
}

/* Tells userland what the code object in python_code says of itself. 0 when it was told. */
__noinline int tell_code(struct scratch *scratch, __u64 code, __u64 now)
{
	if (!scratch)
		return -1;
	const struct python *python = &scratch->python;
	struct code_event *event = &scratch->code_event;
	event->head = (struct event){ .time_ns = now, .pid = scratch->sample.head.pid, .type = EVENT_CODE };
	event->code = code;
	event->cookie = scratch->python_walk.cookie;
	event->instance = python->instance;
	event->first_line = INT_AT(scratch->python_code, python->code_first_line);
	event->line_table = WORD_AT(scratch->python_code, python->code_line_table);
	event->name_bytes =
		copy_text(scratch, WORD_AT(scratch->python_code, python->code_name), event->name, CODE_NAME_BYTES);
	event->file_bytes =
		copy_text(scratch, WORD_AT(scratch->python_code, python->code_file_name), event->file, CODE_FILE_BYTES);
	event->padding = 0;
	__u64 lines = 0;
	if (read_word(event->line_table + python->bytes_size, &lines))
		lines = 0;
	event->line_table_bytes = lines > 0xffffffff ? 0xffffffff : lines;
	if (lines > CODE_LINES_BYTES)
		lines = CODE_LINES_BYTES;
	if (bpf_probe_read_user(event->lines, lines, (void *)(event->line_table + python->bytes_data)))
		lines = 0;
	event->lines_bytes = lines;
	__u64 size = sizeof(*event) - CODE_LINES_BYTES + lines;
	if (size > sizeof(*event)) /* cannot be; said for the verifier */
		return -1;
	if (bpf_ringbuf_output(&ring, event, size, BPF_RB_NO_WAKEUP)) {
		count(COUNTER_CODES_LOST, 1);
		return -1;
	}
	return 0;
}

/* Notes the cookie of the code object at `code`, and tells userland of it if that is new. 0 on success.
 *
 * A code object may die and another one be born at its address, with the same strings even. The cookie covers
 * its first line, the addresses of its strings and tables, and the hash of its name's text. */
__noinline int read_code(struct scratch *scratch, __u64 code, __u64 now)
{
	if (!scratch)
		return -1;
	const struct python *python = &scratch->python;
	struct python_walk *walk = &scratch->python_walk;
	__u32 bytes = python->code_bytes;
	__u64 text_hash;
	struct met_code *met = &scratch->met_codes[code >> 4 & (MET_CODE_ENTRIES - 1)];
	if (met->code == code && met->time_ns == now) {
		walk->cookie = met->cookie;
		walk->code_flags = met->flags;
		return 0;
	}
	if (bytes > PYTHON_CODE_BYTES || bpf_probe_read_user(scratch->python_code, bytes, (void *)code))
		return -1;
	if (WORD_AT(scratch->python_code, 8) != python->code_type) /* ob_type */
		return -1;
	__u64 name = WORD_AT(scratch->python_code, python->code_name);
	if (read_word(name + python->text_hash, &text_hash))
		return -1;
	const __u64 factor = 0x9e3779b97f4a7c15ull;
	__u64 hash = (INT_AT(scratch->python_code, python->code_first_line) ^ text_hash) * factor;
	hash = ((hash ^ hash >> 29) + name) * factor;
	hash = ((hash ^ hash >> 29) + WORD_AT(scratch->python_code, python->code_file_name)) * factor;
	hash = ((hash ^ hash >> 29) + WORD_AT(scratch->python_code, python->code_line_table)) * factor;
	walk->cookie = hash >> 32;
	walk->code_flags = INT_AT(scratch->python_code, python->code_flags);
	*met = (struct met_code){
		.code = code, .time_ns = now, .cookie = walk->cookie, .flags = walk->code_flags
	};
	hash = ((hash ^ hash >> 29) + code) * factor;
	hash = ((hash ^ hash >> 29) + python->instance) * factor;
	__u64 *told = &scratch->told_codes[hash >> 53 & (CODE_CACHE_ENTRIES - 1)];
	if (*told == hash)
		return 0;
	__u32 yes = 1;
	if (!bpf_map_lookup_elem(&told_codes, &hash)) {
		if (tell_code(scratch, code, now))
			return 0; /* counted; told when it is met next */
		bpf_map_update_elem(&told_codes, &hash, &yes, BPF_ANY);
	}
	*told = hash;
	return 0;
}

/* The `str` or `int` of a task's name: its beginning, in words. */
#define NAME_WORDS 8

/* Notes which asyncio task the thread runs, and tells userland its name if that is new. The name's
 * text is part of what identifies it: names are freed and made anew at the same address. */
__noinline int note_task(struct scratch *scratch)
{
	if (!scratch)
		return -1;
	const struct python *python = &scratch->python;
	__u64 task, address, name[NAME_WORDS] = {};
	if (read_word(scratch->python_walk.thread + python->thread_running_task, &task) || !task ||
	    read_word(task + python->task_name, &address))
		return -1;
	/* An int is shorter than a str. */
	if (bpf_probe_read_user(name, sizeof(name), (void *)address) &&
	    bpf_probe_read_user(name, 32, (void *)address))
		return -1;
	if (name[1] != python->text_type) { /* ob_type; else an int: its digits count from bit 3 of word 2 on */
		if (name[2] >> 3 == 1)
			scratch->sample.task = TASK_NUMBERED | (__u32)name[3];
		return 0;
	}
	const __u64 factor = 0x9e3779b97f4a7c15ull;
	__u64 hash = address + python->instance;
	for (int i = 2; i < NAME_WORDS; i++)
		hash = ((hash ^ hash >> 29) + name[i]) * factor;
	hash &= ~TASK_NUMBERED;
	scratch->sample.task = hash;
	__u32 yes = 1;
	if (bpf_map_lookup_elem(&told_codes, &hash))
		return 0;
	struct code_event *event = &scratch->code_event;
	event->head = scratch->sample.head;
	event->head.type = EVENT_TASK;
	event->code = hash;
	event->line_table = 0;
	event->cookie = 0;
	event->instance = python->instance;
	event->first_line = 0;
	event->line_table_bytes = 0;
	event->file_bytes = 0;
	event->lines_bytes = 0;
	event->padding = 0;
	event->name_bytes = copy_text(scratch, address, event->name, CODE_NAME_BYTES);
	if (bpf_ringbuf_output(&ring, event, sizeof(*event) - CODE_LINES_BYTES, BPF_RB_NO_WAKEUP))
		count(COUNTER_CODES_LOST, 1);
	else
		bpf_map_update_elem(&told_codes, &hash, &yes, BPF_ANY);
	return 0;
}

static __always_inline int end_python_walk(struct scratch *scratch, __u32 outcome)
{
	scratch->python_walk.outcome = outcome;
	return 1;
}

/* The offset in bytes of the instruction that the copied frame executes. */
static __always_inline __u32 instruction_offset(struct scratch *scratch, __u64 code)
{
	const struct python *python = &scratch->python;
	if (python->form == PYTHON_OBJECT_BYTES || python->form == PYTHON_OBJECT_UNITS) {
		__s32 last = INT_AT(scratch->python_frame, python->frame_instruction);
		if (last < 0)
			return PYTHON_NOT_STARTED;
		return python->form == PYTHON_OBJECT_UNITS ? 2 * last : last;
	}
	__u64 at = WORD_AT(scratch->python_frame, python->frame_instruction);
	__s64 offset = at - (code + python->code_instructions);
	return offset < 0 || offset > 0x7fffffff ? PYTHON_NOT_STARTED : offset;
}

/* One frame: note it and go to the one that called it. 1 ends the loop. */
static long walk_python_frame(__u32 unused, struct loop *loop)
{
	struct scratch *scratch = loop->scratch;
	struct python_walk *walk = &scratch->python_walk;
	const struct python *python = &scratch->python;
	__u64 index = (__u64)scratch->sample.kernel_count + scratch->sample.user_count + walk->word_count;
	/* The last frame entered the loop. One that did not is new and not yet linked to its caller. */
	if (!walk->frame)
		return end_python_walk(scratch, walk->segment_frames ? OUTCOME_PYTHON_ENTERING : OUTCOME_COMPLETE);
	/* The first bound is the limit; the second holds anyway and is said for the verifier. */
	if (walk->word_count >= 2 * MAX_PYTHON_FRAMES || index > FRAME_CAPACITY - 2)
		return end_python_walk(scratch, OUTCOME_TRUNCATED_DEPTH);
	__u32 bytes = python->frame_bytes;
	if (bytes > PYTHON_FRAME_BYTES || bpf_probe_read_user(scratch->python_frame, bytes, (void *)walk->frame))
		return end_python_walk(scratch, OUTCOME_READ_FAILED);
	__u64 previous = WORD_AT(scratch->python_frame, python->frame_previous);
	__u64 code = code_address(WORD_AT(scratch->python_frame, python->frame_code));
	__u8 owner = BYTE_AT(scratch->python_frame, python->frame_owner);
	__u64 word, details = 0, address = walk->frame;
	walk->frame = previous;
	if (python->form == PYTHON_SHIM && owner >= python->shim_owner) {
		if (walk->segment_frames && index >= 2) {
			scratch->frames[index - 2] |= PYTHON_FRAME_ENTRY;
			walk->segment_frames = 0;
			return 0;
		}
		if (!previous) /* the base below all frames, which entered nothing */
			return end_python_walk(scratch, OUTCOME_COMPLETE);
		word = PYTHON_FRAME_EMPTY | PYTHON_FRAME_ENTRY;
	} else {
		walk->segment_frames++;
		word = code;
		if (python->form < PYTHON_ENTRY_FLAG || (python->form == PYTHON_ENTRY_FLAG && owner)) {
			word |= PYTHON_FRAME_ENTRY;
			walk->segment_frames = 0;
		}
		if (read_code(scratch, code, scratch->sample.head.time_ns)) {
			word |= PYTHON_FRAME_UNREAD;
		} else {
			details = (__u64)walk->cookie << 32 | instruction_offset(scratch, code);
			if (walk->code_flags & CODE_COROUTINE)
				walk->coroutine = address;
		}
	}
	scratch->frames[index] = word;
	scratch->frames[index + 1] = details;
	walk->word_count += 2;
	return 0;
}

/* Notes the frames of the thread state that was copied. */
static __always_inline void walk_frames(struct scratch *scratch)
{
	struct python_walk *walk = &scratch->python_walk;
	walk->segment_frames = 0;
	walk->frame = WORD_AT(scratch->python_thread, scratch->python.thread_frame);
	if (scratch->python.thread_cframe != PYTHON_ABSENT) {
		__u64 cframe = WORD_AT(scratch->python_thread, scratch->python.thread_cframe);
		if (read_word(cframe + scratch->python.thread_frame, &walk->frame)) {
			walk->outcome = OUTCOME_READ_FAILED;
			return;
		}
	}
	walk->outcome = OUTCOME_TRUNCATED_DEPTH; /* unless the loop ends earlier */
	struct loop loop = { .scratch = scratch };
	/* Shims take turns of their own. */
	bpf_loop(2 * MAX_PYTHON_FRAMES, walk_python_frame, &loop, 0);
}

/* A thread that runs code in another interpreter has a state in each. Of those that are not current one
 * may have frames: they are the callers. Which of several calls which is not known. */
static __always_inline void walk_callers(struct scratch *scratch)
{
	struct python_walk *walk = &scratch->python_walk;
	int are_found = 0;
	for (__u32 i = 0; i < MAX_OTHER_STATES && i < walk->other_count && walk->outcome == OUTCOME_COMPLETE; i++) {
		__u32 count = walk->word_count;
		if (read_thread(scratch, walk->others[i]) || !is_own_thread(scratch))
			continue;
		walk_frames(scratch);
		if (walk->word_count == count)
			continue;
		if (are_found) {
			walk->word_count = count;
			walk->outcome = OUTCOME_PYTHON_INTERPRETERS;
		}
		are_found = 1;
	}
	if (walk->other_count > MAX_OTHER_STATES && walk->outcome == OUTCOME_COMPLETE)
		walk->outcome = OUTCOME_PYTHON_INTERPRETERS;
}

/* Tells the sample's coroutine, and remembers that the thread runs such. */
static __always_inline void note_coroutine(struct scratch *scratch, __u32 tid)
{
	struct python_walk *walk = &scratch->python_walk;
	scratch->sample.coroutine = walk->coroutine;
	if (!walk->coroutine)
		return;
	struct found_thread *known = bpf_map_lookup_elem(&found_threads, &tid);
	if (known && known->instance == scratch->python.instance && known->thread == walk->thread) {
		known->runs_coroutines = 1;
		return;
	}
	/* Not the answer of a search. */
	struct found_thread answer = {
		.thread = walk->thread, .instance = scratch->python.instance, .runs_coroutines = 1
	};
	bpf_map_update_elem(&found_threads, &tid, &answer, BPF_ANY);
}

/* Adds the interpreter's frames of the sampled thread behind the native ones. */
static __always_inline void walk_python(struct scratch *scratch, __u32 index, __u32 tid, __u64 now)
{
	__u32 zero = 0;
	const struct python *all = bpf_map_lookup_elem(&pythons, &zero);
	if (!all || index >= python_capacity)
		return;
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct sample_event *sample = &scratch->sample;
	scratch->python = all[index];
	scratch->python_walk = (struct python_walk){
		.thread_pointer = BPF_CORE_READ(task, thread.fsbase),
	};
	if (find_thread(scratch, tid, now))
		return;
	sample->python_instance = scratch->python.instance;
	sample->thread_pointer = scratch->python_walk.thread_pointer;
	sample->flags |= SAMPLE_PYTHON_THREAD;
	if (scratch->python.thread_active_mask && is_active_thread(scratch))
		sample->flags |= SAMPLE_HOLDS_GIL;
	if (scratch->python.thread_running_task)
		note_task(scratch);
	walk_frames(scratch);
	walk_callers(scratch);
	sample->python_count = scratch->python_walk.word_count;
	sample->python_outcome = scratch->python_walk.outcome;
	note_coroutine(scratch, tid);
}

/* Where the search for the outermost coroutine is. */
struct coroutine_walk {
	const struct python *python;
	__u64 frame;
	__u64 coroutine;
};

/* Frames looked at for it, some 150 ns each; of deeper stacks it is not known. */
#define MAX_COROUTINE_FRAMES 256

static long step_to_coroutine(__u32 unused, struct coroutine_walk *walk)
{
	const struct python *python = walk->python;
	__u64 previous, code, type = 0, address = walk->frame;
	__u32 flags;
	__u8 owner = 0;
	if (!address)
		return 1;
	if (read_word(address + python->frame_previous, &previous) || read_word(address + python->frame_code, &code))
		return 1;
	walk->frame = previous;
	code = code_address(code);
	if (bpf_probe_read_user(&flags, 4, (void *)(code + python->code_flags)) || !(flags & CODE_COROUTINE))
		return 0;
	/* What has such a flag may be no call of Python at all. */
	if (python->form == PYTHON_SHIM && (bpf_probe_read_user(&owner, 1, (void *)(address + python->frame_owner)) ||
					    owner >= python->shim_owner))
		return 0;
	if (!read_word(code + 8, &type) && type == python->code_type) /* ob_type */
		walk->coroutine = address;
	return 0;
}

/* The frame of the outermost coroutine that the current thread runs, as a sample would tell it; 0 where none is known.
 * `index` is its process's interpreter. Only threads that were sampled in a coroutine are looked at. */
static __noinline __u64 running_coroutine(__u32 index)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	__u32 zero = 0, tid = bpf_get_current_pid_tgid();
	const struct found_thread *known = bpf_map_lookup_elem(&found_threads, &tid);
	const struct python *all = bpf_map_lookup_elem(&pythons, &zero);
	if (!known || !known->runs_coroutines || known->found > 1 || !all || index >= python_capacity)
		return 0;
	const struct python *python = &all[index];
	__u64 id, frame = known->thread + python->thread_frame;
	if (known->instance != python->instance || read_word(known->thread + python->thread_id, &id) ||
	    id != BPF_CORE_READ(task, thread.fsbase))
		return 0;
	if (python->thread_cframe != PYTHON_ABSENT) {
		if (read_word(known->thread + python->thread_cframe, &frame))
			return 0;
		frame += python->thread_frame;
	}
	struct coroutine_walk walk = { .python = python };
	if (read_word(frame, &walk.frame))
		return 0;
	bpf_loop(MAX_COROUTINE_FRAMES, step_to_coroutine, &walk, 0);
	return walk.frame ? 0 : walk.coroutine;
}

#endif

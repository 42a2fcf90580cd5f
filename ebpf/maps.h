/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only
 *
 * All maps and settings. The four table maps are single elements that
 * userland maps into its memory and fills without system calls; their sizes
 * are settings, so that the verifier can bound every index.
 */
#ifndef TXPROF_MAPS_H
#define TXPROF_MAPS_H

#include "kernel.h"
#include "shared.h"

/* Settings: written by userland before load, constants to the verifier. */
const volatile __u32 row_capacity = 1;     /* elements of `rows` */
const volatile __u32 page_capacity = 1;    /* elements of `pages` */
const volatile __u32 mapping_capacity = 1; /* elements of `mappings` */
const volatile __u32 python_capacity = 1;  /* elements of `pythons` */
const volatile __u32 wakeup_bytes = 1;     /* fill of the ring that wakes userland */
const volatile __u32 cpu_capacity = 1;     /* CPUs that `scratches` has room for, in each context */
const volatile __u32 min_wait_ns = 0;      /* shorter waits have no stack */
const volatile __u32 wait_window_ns = 1;   /* in which WAIT_BUDGET stacks of waits are wanted on one CPU */
const volatile __u32 gil_window_ns = 1;    /* likewise, of waits for the lock of a Python */
const volatile __u32 base_share = 1;       /* one tick in so many is a sample, outside of requests */
const volatile __u8 follow_children = 1;
const volatile __u8 watch_all = 0;         /* report exec and fork of every process */
const volatile __u8 kernel_frames = 1;
const volatile __u8 keep_samples = 0;      /* the perf event writes its own sample, too */
const volatile __u8 on_cpu_samples = 1;    /* 0: the clocks tick for nothing but new mappings */
const volatile __u8 waker_stacks = 0;      /* every wake-up from a long wait is told with its stack */
const volatile __u8 waker_names = 0;       /* who woke a thread is told with the wait, without a stack */
const volatile __u8 every_wait = 0;        /* that is not shorter has a stack, however many there are */
const volatile __u8 has_task_work = 0;     /* a thread can be asked for its stack as it returns to user mode */

#define RULE_CAPACITY 65536

/* key: tgid; written by userland and, for children, by fork; read per tick.
 * Full: the child is not followed, COUNTER_PROCESSES_FULL. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, __u32);
	__type(value, struct process);
} processes SEC(".maps");

/* struct mapping[mapping_capacity]; written by userland into unused parts, never
 * in place. Full: userland leaves the process with frame pointers and says so. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__uint(key_size, 4);
	__uint(value_size, 40);
} mappings SEC(".maps");

/* struct page[page_capacity]; as above. Full: files are evicted. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__uint(key_size, 4);
	__uint(value_size, 8);
} pages SEC(".maps");

/* row_t[row_capacity]; as above. Full: files are evicted. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__uint(key_size, 4);
	__uint(value_size, 8);
} rows SEC(".maps");

/* struct rule[RULE_CAPACITY]; appended by userland, shared by all files: binaries
 * have few distinct rules. Full: further rules become RULE_UNSUPPORTED. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__uint(key_size, 4);
	__uint(value_size, RULE_CAPACITY * 8);
} rules SEC(".maps");

/* struct python[python_capacity]; written by userland into unused elements, never in place. Element 0 is
 * none. Full: further interpreters are seen as the C programs that they are. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__uint(key_size, 4);
	__uint(value_size, 120);
} pythons SEC(".maps");

/* Records of shared.h; size set by userland. Full: counted, never blocks. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} ring SEC(".maps");

/* key: enum counter; each CPU writes its own, userland sums. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTER_COUNT);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

static __always_inline void count(__u32 counter, __u64 amount)
{
	__u64 *value = bpf_map_lookup_elem(&counters, &counter);
	if (value)
		*value += amount;
}

#endif

/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only
 *
 * CLOCK_MONOTONIC by the scheduler's clocks, which it has read before it
 * switches: to read the hardware's again is a third of what a switch costs here.
 */
#ifndef TXPROF_CLOCK_H
#define TXPROF_CLOCK_H

#include "maps.h"

/* After this, how far the two are apart is found anew: the kernel lets CLOCK_MONOTONIC run faster or slower by 1 in 2,000
 * at most (MAXFREQ, include/linux/timex.h), half a microsecond in that time. */
#define CLOCK_PERIOD_NS 1000000
#define CLOCK_SLEW 2048
/* What was found longer ago than this is forgotten, and the least of so many new readings counts. */
#define CLOCK_STALE_NS 10000000
#define CLOCK_READINGS 4

/* By how much CLOCK_MONOTONIC is ahead of the clock of this CPU's run queue. */
struct clock {
	__u64 checked_ns; /* by the run queue's clock, when `lead` was found; 0: never */
	__u64 lead;
	__u32 unsettled;  /* readings that are missing to trust `lead` */
	__u32 padding;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1); /* key: 0 */
	__type(key, __u32);
	__type(value, struct clock);
} clocks SEC(".maps");

static __always_inline struct clock *find_clock(void)
{
	__u32 zero = 0;
	return bpf_map_lookup_elem(&clocks, &zero);
}

/* What passes between the scheduler's reading and this one counts as lead, so a short one is right, and one that has grown by
 * more than the clocks can drift is a pause of the CPU by its host, or work of the scheduler. */
static __always_inline void check_clock(struct clock *clock, __u64 queue_ns, __u64 now)
{
	__u64 lead = now - queue_ns, passed = queue_ns - clock->checked_ns;
	__s64 growth = lead - clock->lead, allowed = clock->unsettled ? 0 : passed / CLOCK_SLEW;
	if (passed > CLOCK_STALE_NS)
		clock->unsettled = CLOCK_READINGS;
	else if (growth > allowed)
		lead = clock->lead + allowed;
	clock->lead = lead;
	clock->checked_ns = queue_ns;
	if (clock->unsettled)
		clock->unsettled--;
}

/* Whether this kernel's scheduler tells since when a thread is queued, by a clock that is known here: CONFIG_SCHED_INFO,
 * CONFIG_FAIR_GROUP_SCHED. */
static __always_inline int tells_queues(struct task_struct *task)
{
	return bpf_core_field_exists(task->sched_info.last_queued) && bpf_core_field_exists(task->se.cfs_rq);
}

/* The clock of the run queue that a thread is in, or was in last; 0: it is not to be had. */
static __always_inline __u64 run_queue_clock(struct task_struct *task)
{
	return bpf_core_field_exists(task->se.cfs_rq) ? task->se.cfs_rq->rq->clock : 0;
}

/* When the switch from `out` to `in` happens. `queue_ns` is that by the clock of the run queue, or 0. */
static __always_inline __u64 switch_time(struct task_struct *out, struct task_struct *in, __u64 queue_ns)
{
	struct clock *clock = find_clock();
	if (!clock || !queue_ns)
		return bpf_ktime_get_ns();
	if (LIKELY(!clock->unsettled && queue_ns - clock->checked_ns <= CLOCK_PERIOD_NS))
		return queue_ns + clock->lead;
	__u64 now = bpf_ktime_get_ns();
	if (in->pid) /* else the scheduler has just looked for work on other CPUs, which takes its time */
		check_clock(clock, queue_ns, now);
	return now;
}

#endif

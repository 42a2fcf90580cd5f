/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only
 *
 * Which waits get a stack, and which of those who end them: as many as the
 * budget of a CPU allows, the longest first and the others by a sample of their time.
 */
#ifndef TXPROF_BUDGET_H
#define TXPROF_BUDGET_H

#include "gil.h"

/* So many stacks in `wait_window_ns` on one CPU are wanted: 100 a second cost a quarter of a percent of a CPU. With more, the
 * length from which on each wait has a stack is doubled until these suffice. Of those that are shorter, but not below
 * the threshold, each thread has one taken whenever they have lasted THIN_SHARE times as long together: a sample of
 * the time waited. */
#define WAIT_BUDGET 10
#define MAX_STACKS 40 /* in that time, even of waits that all are long */
#define OPEN_BUDGET 3 /* in that time, of waits whose length nobody knows yet */
#define MAX_DOUBLINGS 14 /* from 50 us to 0.8 s */
#define THIN_SHARE 8

struct budget {
	__u64 window_ns;
	__u32 taken;
	__u32 wakers;
	__u32 doublings;
	__u32 padding;
};

/* key: 1 of waits for Python's lock, so that these, which are many, and others leave each other room, else 0; how many
 * stacks this CPU took, and how many of who ends a wait. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct budget);
} budgets SEC(".maps");

enum verdict { TOO_SHORT = 1, THIN, SAMPLE, TAKE, NO_ROOM };

static __always_inline struct budget *find_budget(const struct thread *thread, __u64 now)
{
	__u32 key = (thread->flags & WAIT_GIL) != 0;
	struct budget *budget = bpf_map_lookup_elem(&budgets, &key);
	if (budget && now - budget->window_ns > (key ? gil_window_ns : wait_window_ns)) {
		if (budget->doublings && budget->taken < WAIT_BUDGET / 2)
			budget->doublings--;
		budget->window_ns = now;
		budget->taken = 0;
		budget->wakers = 0;
	}
	return budget;
}

static __always_inline __u64 threshold_ns(const struct budget *budget)
{
	return (__u64)min_wait_ns << (budget ? budget->doublings & 15 : 0);
}

/* Whether shorter waits have lasted long enough together, with this one, for a sample of them. */
static __always_inline int is_sample(struct thread *thread, const struct budget *budget, __u64 waited_ns)
{
	thread->thin_ns += waited_ns;
	if (thread->thin_ns < THIN_SHARE * threshold_ns(budget) || budget->taken >= MAX_STACKS)
		return 0;
	thread->thin_ns = 0;
	return 1;
}

/* Whether a wait of this length gets a stack. */
static __always_inline enum verdict judge_wait(struct thread *thread, __u64 waited_ns, __u64 now)
{
	struct budget *budget = find_budget(thread, now);
	if (!budget)
		return NO_ROOM;
	if (waited_ns < min_wait_ns)
		return TOO_SHORT;
	int is_told = thread->flags & WAIT_TOLD;
	/* Where who ends a wait is told with a stack, the wait was judged then, if Python's lock was handed over. */
	int was_judged = waker_stacks && thread->flags & (WAIT_TOLD | WAIT_UNTOLD);
	if (waited_ns < threshold_ns(budget)) {
		if (thread->flags & WAIT_UNTOLD && !is_told)
			return THIN;
		if (!was_judged && !is_sample(thread, budget, waited_ns))
			return THIN;
		budget->taken++;
		return SAMPLE;
	}
	if ((was_judged && is_told) || budget->taken++ < WAIT_BUDGET)
		return TAKE;
	if (budget->doublings < MAX_DOUBLINGS) {
		budget->doublings++;
		budget->taken = 0;
		return TAKE;
	}
	return budget->taken < MAX_STACKS ? TAKE : NO_ROOM;
}

/* Whether the end of a wait of this length has its waker told: a stack of that is to no avail if the wait has none then. */
static __always_inline int may_tell_waker(struct thread *thread, __u64 waited_ns, int hands_over, __u64 now)
{
	struct budget *budget = find_budget(thread, now);
	if (!budget || budget->wakers >= (waker_stacks ? 2 : 8) * WAIT_BUDGET)
		return 0;
	if (waker_stacks && waited_ns < threshold_ns(budget) && !(hands_over && is_sample(thread, budget, waited_ns)))
		return 0;
	budget->wakers++;
	return 1;
}

/* Whether a wait that begins, nobody knows how long, gets one. */
static __always_inline int may_open(const struct thread *thread, __u64 now)
{
	struct budget *budget = find_budget(thread, now);
	return budget && budget->taken < OPEN_BUDGET && ++budget->taken;
}

#endif

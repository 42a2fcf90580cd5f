/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only
 *
 * Which waits get a stack, and which of those who end them: as many as the
 * budget of a CPU allows, the longest first and the others by a sample of their time.
 */
#ifndef TXPROF_BUDGET_H
#define TXPROF_BUDGET_H

#include "gil.h"

/* So many stacks in `wait_window_ns` on one CPU are wanted: 100 a second cost a fifth of a percent of a CPU. With more, the
 * length from which on each wait has a stack is doubled until these suffice. The time that a thread is in shorter ones, but
 * not below the threshold, is divided into strata, THIN_SHARE times as long, and one wait of each has a stack. */
#define WAIT_BUDGET 10
/* To judge waits costs, too: the fewer of them are above the threshold, the more stacks, up to so many more, and none more
 * where there is one in each JUDGE_NS. */
#define SPARE_BUDGET 15
#define JUDGE_NS 100000
#define MAX_STACKS 40 /* in that time, even of waits that all are long */
#define OPEN_BUDGET 3 /* in that time, of waits whose length nobody knows yet */
#define MAX_DOUBLINGS 14 /* from 50 us to 0.8 s */
#define THIN_SHARE 8

struct budget {
	__u64 window_ns;
	__u32 taken;
	__u32 wakers;
	__u32 doublings;
	__u32 judged;
	__u32 wanted;
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
		__u64 room = (now - budget->window_ns) / JUDGE_NS, judged = budget->judged;
		budget->wanted = WAIT_BUDGET;
		if (!key && !waker_stacks && judged < room)
			budget->wanted += SPARE_BUDGET - SPARE_BUDGET * judged / room;
		if (budget->doublings && budget->taken < budget->wanted / 2)
			budget->doublings--;
		budget->window_ns = now;
		budget->taken = 0;
		budget->wakers = 0;
		budget->judged = 0;
	}
	return budget;
}

static __always_inline __u64 threshold_ns(const struct budget *budget)
{
	return (__u64)min_wait_ns << (budget ? budget->doublings & 15 : 0);
}

/* Stacks are more than wanted: fewer waits will be long enough for one. */
static __always_inline void tighten(struct budget *budget)
{
	budget->doublings++;
	budget->taken = 0;
}

/* Which strata a wait is in: those of one place in the target are seldom those of another, so that how they divide a thread's
 * time is not left to chance. */
static __always_inline __u32 place_of(const struct thread *thread)
{
	return ((thread->ip ^ thread->sp) * 0x9e3779b97f4a7c15ull) >> (64 - STRATA_BITS); /* 2^64 by the golden ratio */
}

/* Whether the chosen instant has passed is noted, once. */
static __always_inline void pass(struct stratum *stratum)
{
	if (stratum->passed_ns <= stratum->chosen_ns)
		return;
	stratum->owed_ns += stratum->length_ns;
	stratum->chosen_ns = CHOSEN_BEFORE;
}

/* Whether this shorter wait is the one of its stratum that has a stack: the one that lasts over an instant in it that is
 * chosen by chance. It stands for the stratum. What may not have a stack leaves that to the next. */
static __always_inline int is_sample(struct thread *thread, struct budget *budget, __u64 waited_ns)
{
	struct stratum *stratum = &thread->strata[place_of(thread)];
	stratum->passed_ns += waited_ns;
	pass(stratum);
	if (stratum->passed_ns >= stratum->length_ns) {
		stratum->passed_ns -= stratum->length_ns;
		stratum->length_ns = THIN_SHARE * threshold_ns(budget); /* longer than this wait */
		stratum->chosen_ns = (bpf_get_prandom_u32() >> 4) * stratum->length_ns >> 28;
		pass(stratum);
	}
	if (!stratum->owed_ns || budget->taken >= MAX_STACKS)
		return 0;
	thread->stands_for_ns = stratum->owed_ns;
	stratum->owed_ns = 0;
	if (budget->taken >= budget->wanted && budget->doublings < MAX_DOUBLINGS)
		tighten(budget);
	return 1;
}

/* Whether a wait of this length gets a stack. */
static __always_inline enum verdict judge_wait(struct thread *thread, __u64 waited_ns, __u64 now)
{
	struct budget *budget = find_budget(thread, now);
	if (!budget)
		return NO_ROOM;
	budget->judged++;
	if (waited_ns < min_wait_ns)
		return TOO_SHORT;
	if (every_wait)
		return TAKE;
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
	if ((was_judged && is_told) || budget->taken++ < budget->wanted)
		return TAKE;
	if (budget->doublings < MAX_DOUBLINGS) {
		tighten(budget);
		return TAKE;
	}
	return budget->taken < MAX_STACKS ? TAKE : NO_ROOM;
}

/* Whether the end of a wait of this length has its waker told: a stack of that is to no avail if the wait has none then. */
static __always_inline int may_tell_waker(struct thread *thread, __u64 waited_ns, int hands_over, __u64 now)
{
	if (every_wait)
		return 1;
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
	return every_wait || (budget && budget->taken < OPEN_BUDGET && ++budget->taken);
}

#endif

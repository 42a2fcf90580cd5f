/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only
 *
 * What is known of each thread of a target: what it is about since when, its
 * sums so far, and the wait under way.
 */
#ifndef TXPROF_THREADS_H
#define TXPROF_THREADS_H

#include "clock.h"
#include "sample.h"

/* arch/x86/entry/syscalls/syscall_64.tbl */
#define SYS_READ 0
#define SYS_WRITE 1
#define SYS_READV 19
#define SYS_WRITEV 20
#define SYS_SENDTO 44
#define SYS_RECVFROM 45
#define SYS_SENDMSG 46
#define SYS_RECVMSG 47
#define SYS_FUTEX 202
#define SYS_EPOLL_WAIT 232
#define SYS_EPOLL_PWAIT 281

/* What the entry code leaves in ax until the call returns, -ENOSYS: arch/x86/entry/entry_64.S,
 * PUSH_AND_CLEAR_REGS rax=$-ENOSYS. Behind the call, on the way to user mode, it is the call's result. */
#define CALL_RUNS (-38)

/* A stretch of the time that a thread is in waits of which only some have a stack; one in each has, see is_sample. */
struct stratum {
	__u64 length_ns, passed_ns;
	__u64 chosen_ns; /* up to here in it, the wait that lasts longer has a stack; or CHOSEN_BEFORE */
	__u64 owed_ns;   /* of strata whose wait is chosen and has no stack yet */
};
#define CHOSEN_BEFORE (~0ull)
#define STRATA_BITS 2

/* What each switch touches comes first, in two lines of cache. */
struct thread {
	__u64 since_ns; /* when `state` began; 0: not seen yet */
	__u64 run_ns, queue_ns, blocked_ns;
	__u64 exec_ns; /* by the scheduler's own account, when `state` was last no longer, or not yet, THREAD_RUNNING */
	__u64 delay_ns; /* queued by the scheduler's own account, when it left its CPU */
	__u8 state;          /* enum thread_state */
	__u8 in_call;        /* this and what is noted with it, see note_call, is of the wait under way */
	__u8 flags;          /* WAIT_* of that */
	__u8 kernel_count;
	__u8 due;            /* enum verdict: a stack that was asked for; 0: none */
	__u8 on_errand;      /* see errand.h: 1 more than how often it may still be told that it tells a loop something */
	/* The wait under way: until the thread is back in user mode, or since it was told open. */
	__u64 wait_began_ns, wait_queue_ns, wait_blocked_ns;
	__u64 short_queue_ns, short_blocked_ns;
	__u32 short_count;
	__u32 gil_sequence;  /* of the last wait for Python's lock that was told; 0: there was none */
	__u64 gil_ended_ns;
	__u64 ip, sp; /* in user mode, when it began */
	__u64 argument;
	__s32 call;
	__u32 open_sequence; /* told when it began; 0: was not */
	__u64 thin_queue_ns, thin_blocked_ns, bare_queue_ns, bare_blocked_ns;
	__u32 thin_count, bare_count;
	struct stratum strata[1 << STRATA_BITS];
	__u64 stands_for_ns; /* that time, of the last one that had a stack */
	__u64 gil_ip, gil_sp; /* of the wait `gil_sequence` */
	__u64 answered; /* the server's socket that it sent on last and has received nothing from since; 0: none */
	__u64 gil_holder_at; /* where the interpreter says who has that lock; 0: not known */
	__u64 born_ns;
	__u32 parent_tid; /* which made it at born_ns; 0: that was not seen */
	__u32 sequence; /* of the last wait that was told */
	__u32 waker_pid, waker_tid;
	__s32 waker_call;
	char waker_comm[COMM_BYTES];
	__u64 kernel[MAX_WAIT_KERNEL_FRAMES]; /* where the wait stood */
};

/* Of each thread of a target; written by the tracepoints. As many as targets have threads, some 700
 * bytes each; they go with their threads. Where the kernel has no memory for one it is counted,
 * COUNTER_THREADS_LOST, and is not accounted for. */
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct thread);
} threads SEC(".maps");

static __always_inline struct thread *find_thread_of(struct task_struct *task)
{
	return task->bpf_storage ? bpf_task_storage_get(&threads, task, 0, 0) : 0;
}

static __always_inline struct pt_regs___kernel *entry_registers(struct task_struct *task)
{
	return (struct pt_regs___kernel *)bpf_task_pt_regs(task);
}

static __always_inline __u64 words_of(long bytes)
{
	return bytes > 0 ? (__u64)bytes / 8 : 0;
}

/* Where a thread that does not run stands in the kernel; how many words. */
static __always_inline __u64 save_kernel_stack(struct task_struct *task, struct thread *thread)
{
	return words_of(bpf_get_task_stack(task, thread->kernel, sizeof(thread->kernel), 0));
}

static __always_inline __u64 name_of(struct task_struct *task)
{
	return (__u64)task->tgid << 32 | (__u32)task->pid;
}

/* Whether the word at `address` in the target lies in its interpreter's runtime: a wait for
 * that is one for the interpreter's lock, the only one there that threads contend for. */
static __always_inline int is_gil(__u32 pid, __u64 address)
{
	__u32 zero = 0;
	struct process *process = bpf_map_lookup_elem(&processes, &pid);
	const struct python *all = bpf_map_lookup_elem(&pythons, &zero);
	if (!process || !all)
		return 0;
	struct process seen = copy_process(process, pid);
	if (!seen.python || seen.python >= python_capacity)
		return 0;
	return address - all[seen.python].runtime < all[seen.python].runtime_bytes;
}

/* Which system call a thread is in that is not in user mode; -1: none. */
static __always_inline __s32 call_of(const struct pt_regs___kernel *registers)
{
	__s64 call = registers->orig_ax;
	return call >= 0 && (__s64)registers->ax == CALL_RUNS ? call : -1;
}

/* What a thread that does not run waits for. */
static __always_inline void note_call(struct task_struct *task, struct thread *thread,
				      const struct pt_regs___kernel *registers)
{
	thread->call = call_of(registers);
	thread->in_call = thread->call >= 0;
	thread->ip = registers->ip;
	thread->sp = registers->sp;
	thread->argument = registers->di;
	if (thread->call == SYS_FUTEX && is_gil(task->tgid, thread->argument))
		thread->flags |= WAIT_GIL;
}

/* The wait under way is over or was never told; its times were added up elsewhere. */
static __always_inline void end_wait(struct thread *thread)
{
	thread->wait_began_ns = 0;
	thread->wait_queue_ns = 0;
	thread->wait_blocked_ns = 0;
	thread->open_sequence = 0;
	thread->kernel_count = 0;
	thread->flags = WAIT_NO_WAKER;
}

static __always_inline void sum_short(struct thread *thread)
{
	thread->short_queue_ns += thread->wait_queue_ns;
	thread->short_blocked_ns += thread->wait_blocked_ns;
	thread->short_count++;
	end_wait(thread);
}

static __always_inline void sum_thin(struct thread *thread)
{
	thread->thin_queue_ns += thread->wait_queue_ns;
	thread->thin_blocked_ns += thread->wait_blocked_ns;
	thread->thin_count++;
	end_wait(thread);
}

static __always_inline void sum_bare(struct thread *thread)
{
	thread->bare_queue_ns += thread->wait_queue_ns;
	thread->bare_blocked_ns += thread->wait_blocked_ns;
	thread->bare_count++;
	end_wait(thread);
}

/* For how long a thread has been in its state. What another CPU began after `now` was read has not taken any time. */
static __always_inline __u64 passed_ns(const struct thread *thread, __u64 now)
{
	__u64 since_ns = thread->since_ns;
	return now > since_ns ? now - since_ns : 0;
}

/* Of the time up to `now` that a thread has been blocked for as far as is known here, how much it was queued in truth: woken, by
 * the scheduler's account. That is why no wake-up needs to be watched for the time. `queue_ns` is `now` by the clock of the run
 * queue. */
static __always_inline __u64 woken_ns(struct task_struct *task, const struct thread *thread, __u64 now, __u64 queue_ns)
{
	if (!tells_queues(task) || thread->state != THREAD_BLOCKED)
		return 0;
	__u64 since_ns = task->sched_info.last_queued, queued = task->sched_info.run_delay - thread->delay_ns;
	__s64 present = since_ns ? queue_ns - since_ns : 0;
	queued += present > 0 ? present : 0;
	__u64 passed = passed_ns(thread, now);
	return queued < passed ? queued : passed;
}

/* Adds the time in the state that ends to the sums. */
static __always_inline void end_state(struct thread *thread, __u64 now)
{
	__u64 passed = passed_ns(thread, now);
	thread->since_ns += passed;
	if (thread->state == THREAD_BLOCKED) {
		thread->blocked_ns += passed;
		thread->wait_blocked_ns += passed;
	} else if (thread->state == THREAD_QUEUED) {
		thread->queue_ns += passed;
		thread->wait_queue_ns += passed;
	} else {
		thread->run_ns += passed;
	}
}

/* As above, of a thread that comes to a CPU. `queue_ns` is `now` by the clock of the run queue. */
static __always_inline void end_absence(struct task_struct *task, struct thread *thread, __u64 now, __u64 queue_ns)
{
	__u64 passed = passed_ns(thread, now), blocked = 0;
	if (thread->state == THREAD_BLOCKED)
		blocked = passed - woken_ns(task, thread, now, queue_ns);
	thread->since_ns += passed;
	thread->blocked_ns += blocked;
	thread->wait_blocked_ns += blocked;
	thread->queue_ns += passed - blocked;
	thread->wait_queue_ns += passed - blocked;
}

/* Notes the scheduler's accounts of a thread that is about to leave its CPU: they count up to now. */
static __always_inline void note_accounts(struct task_struct *task, struct thread *thread)
{
	if (tells_queues(task))
		thread->delay_ns = task->sched_info.run_delay;
	thread->exec_ns = task->se.sum_exec_runtime;
}

/* For how long a thread has run by the scheduler's account, up to now: that is brought up to date at ticks and switches. */
static __always_inline __u64 exec_up_to(struct task_struct *task, __u64 now)
{
	struct clock *clock = find_clock();
	__s64 behind = 0;
	if (bpf_core_field_exists(task->se.cfs_rq) && clock && clock->checked_ns) {
		struct rq *queue = task->se.cfs_rq->rq;
		behind = now - clock->lead - (queue->clock - queue->clock_task) - task->se.exec_start;
	}
	return task->se.sum_exec_runtime + (behind > 0 ? behind : 0);
}

/* The thread's coming to a CPU, or its leaving it, was not seen: there are kernels on which some tasks leave
 * without sched_switch, and whoever follows them comes unseen. The scheduler's own account says for how long
 * of the time since it did run; for the rest, it was what it was about, or blocked. */
static __noinline int mend_state(struct task_struct *task, struct thread *thread, __u64 now)
{
	if (!task || !thread)
		return 0;
	__u64 passed = passed_ns(thread, now), exec_ns = exec_up_to(task, now);
	__u64 ran = exec_ns > thread->exec_ns ? exec_ns - thread->exec_ns : 0;
	if (ran > passed)
		ran = passed;
	thread->run_ns += ran;
	thread->since_ns += ran;
	if (thread->state == THREAD_RUNNING) {
		thread->state = THREAD_BLOCKED;
		thread->in_call = 0; /* where it waited is not known */
		thread->call = -1;
		thread->wait_began_ns = thread->since_ns;
	}
	end_state(thread, now);
	thread->state = THREAD_RUNNING;
	thread->exec_ns = exec_ns;
	count(COUNTER_SWITCHES_MENDED, 1);
	return 0;
}

/* How long the current thread has run, up to now. It may be preempted between two lines of this: each change of the
 * sums begins a state. */
static __always_inline __u64 run_sum_ns(const struct thread *thread, __u64 now)
{
	__u64 sum = 0;
#pragma clang loop unroll(disable)
	for (int i = 0; i < 4; i++) {
		__u64 since_ns = *(const volatile __u64 *)&thread->since_ns;
		barrier();
		sum = thread->run_ns;
		if (now > since_ns)
			sum += now - since_ns;
		barrier();
		if (*(const volatile __u64 *)&thread->since_ns == since_ns)
			break;
	}
	return sum;
}

/* The sums of a thread up to now, with the wait that has not ended. */
static __always_inline void fill_thread(struct thread_event *event, struct task_struct *task,
					const struct thread *thread, __u64 now)
{
	struct clock *clock = find_clock();
	__u64 passed = passed_ns(thread, now), woken = clock ? woken_ns(task, thread, now, now - clock->lead) : 0;
	__builtin_memset(event, 0, sizeof(*event)); /* a literal would be copied, which the stack has no room for */
	event->head.time_ns = now;
	event->head.pid = task->tgid;
	event->head.type = EVENT_THREAD;
	event->run_ns = thread->run_ns;
	event->queue_ns = thread->queue_ns;
	event->blocked_ns = thread->blocked_ns;
	event->short_queue_ns = thread->short_queue_ns;
	event->short_blocked_ns = thread->short_blocked_ns;
	event->thin_queue_ns = thread->thin_queue_ns;
	event->thin_blocked_ns = thread->thin_blocked_ns;
	event->bare_queue_ns = thread->bare_queue_ns;
	event->bare_blocked_ns = thread->bare_blocked_ns;
	event->open_queue_ns = thread->wait_queue_ns;
	event->open_blocked_ns = thread->wait_blocked_ns;
	event->short_count = thread->short_count;
	event->thin_count = thread->thin_count;
	event->bare_count = thread->bare_count;
	event->tid = task->pid;
	event->open_sequence = thread->open_sequence;
	event->state = woken ? THREAD_QUEUED : thread->state;
	event->flags = thread->flags;
	event->call = -1;
	struct pt_regs___kernel *registers = entry_registers(task);
	if (registers && thread->state != THREAD_RUNNING) {
		event->call = call_of(registers);
		event->argument = registers->di;
		if (event->call == SYS_FUTEX && is_gil(task->tgid, event->argument))
			event->flags |= WAIT_GIL;
	}
	event->thread_pointer = BPF_CORE_READ(task, thread.fsbase);
	event->switches = task->nvcsw + task->nivcsw;
	event->parent_tid = thread->parent_tid;
	event->born_ns = thread->born_ns;
	if (thread->state == THREAD_RUNNING) {
		event->run_ns += passed;
	} else if (thread->state == THREAD_QUEUED) {
		event->queue_ns += passed;
		event->open_queue_ns += passed;
	} else {
		event->blocked_ns += passed - woken;
		event->open_blocked_ns += passed - woken;
		event->queue_ns += woken;
		event->open_queue_ns += woken;
	}
	BPF_CORE_READ_INTO(&event->thread_comm, task, comm);
	BPF_CORE_READ_INTO(&event->process_comm, task, group_leader, comm);
}

/* Begins to account for a thread, by what it is about now. `since_ns` is written last: until then, the
 * tracepoints leave it alone, so that it may leave its CPU, or come to one, unseen. */
static __always_inline struct thread *meet_thread(struct task_struct *task)
{
	struct thread *thread = bpf_task_storage_get(&threads, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!thread)
		return 0;
	thread->call = -1;
	thread->flags = WAIT_NO_WAKER;
	__u64 now = bpf_ktime_get_ns();
	thread->exec_ns = task->se.sum_exec_runtime;
	if (tells_queues(task))
		thread->delay_ns = task->sched_info.run_delay;
	thread->state = task->on_cpu ? THREAD_RUNNING : task->__state ? THREAD_BLOCKED : THREAD_QUEUED;
	struct pt_regs___kernel *registers = entry_registers(task);
	if (registers && thread->state != THREAD_RUNNING) {
		note_call(task, thread, registers);
		thread->wait_began_ns = now;
	}
	barrier();
	thread->since_ns = now;
	return thread;
}

#endif

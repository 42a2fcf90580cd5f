/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only
 *
 * What is told of a wait: its times, what it was for, who ended it, and the
 * stack of the thread that waited or of the one that woke it.
 */
#ifndef TXPROF_WAIT_H
#define TXPROF_WAIT_H

#include "budget.h"

static __always_inline void fill_wait(struct scratch *scratch, const struct thread *thread, __u32 type,
				      __u64 pid_tgid, __u64 now)
{
	struct wait_event *wait = &scratch->wait;
	wait->head.time_ns = now;
	wait->head.pid = pid_tgid >> 32;
	wait->head.type = type;
	wait->began_ns = thread->wait_began_ns;
	wait->blocked_ns = thread->wait_blocked_ns;
	wait->queue_ns = thread->wait_queue_ns;
	wait->run_sum_ns = run_sum_ns(thread, now);
	wait->queue_sum_ns = thread->queue_ns;
	wait->stands_for_ns = thread->stands_for_ns;
	wait->argument = thread->argument;
	wait->holder = 0;
	wait->holder_frame[0] = 0;
	wait->holder_frame[1] = 0;
	wait->object = (struct wait_object){};
	wait->tid = (__u32)pid_tgid;
	wait->sequence = thread->sequence;
	wait->call = thread->call;
	wait->waker_pid = thread->waker_pid;
	wait->waker_tid = thread->waker_tid;
	wait->waker_call = thread->waker_call;
	wait->flags = thread->flags;
	__builtin_memcpy(wait->waker_comm, thread->waker_comm, COMM_BYTES);
}

#define FORMAT_BITS 0170000 /* S_IFMT, include/uapi/linux/stat.h */
#define FORMAT_SOCKET 0140000

/* What the descriptor `number` of a thread's process stands for; 0 if it is none. */
static __always_inline struct file *file_of(struct task_struct *task, __u64 number)
{
	struct fdtable *table = BPF_CORE_READ(task, files, fdt);
	struct file **files = BPF_CORE_READ(table, fd), *file = 0;
	if (number >= BPF_CORE_READ(table, max_fds) || bpf_probe_read_kernel(&file, sizeof(file), files + number))
		return 0;
	return file;
}

/* The socket that a file is; 0: it is none. */
static __always_inline struct sock *sock_of(struct file *file)
{
	if ((BPF_CORE_READ(file, f_inode, i_mode) & FORMAT_BITS) != FORMAT_SOCKET)
		return 0;
	struct socket *socket = BPF_CORE_READ(file, private_data);
	return BPF_CORE_READ(socket, sk);
}

/* What the descriptor `number` of the current process stands for, if it is one. */
static __always_inline void note_object(struct wait_object *object, __u64 number)
{
	struct file *file = file_of((struct task_struct *)bpf_get_current_task(), number);
	if (!file)
		return;
	object->inode = BPF_CORE_READ(file, f_inode, i_ino);
	object->mode = BPF_CORE_READ(file, f_inode, i_mode) & FORMAT_BITS;
	struct sock *sock = sock_of(file);
	if (!sock)
		return;
	object->family = BPF_CORE_READ(sock, __sk_common.skc_family);
	object->local_port = BPF_CORE_READ(sock, __sk_common.skc_num);
	object->remote_port = __builtin_bswap16(BPF_CORE_READ(sock, __sk_common.skc_dport));
	if (object->family == 2) /* AF_INET */
		BPF_CORE_READ_INTO((__u32 *)object->address, sock, __sk_common.skc_daddr);
	else if (object->family == 10) /* AF_INET6 */
		BPF_CORE_READ_INTO((struct in6_addr_bytes *)object->address, sock, __sk_common.skc_v6_daddr);
}

/* The record of a wait and the stack of the current thread. `kernel` of `kernel_count` words, if any, were
 * copied to scratch->frames. `gil_waiter` is that thread, if it waited for Python's lock. 0 when it went up. */
static __always_inline int emit_stack(struct scratch *scratch, __u64 pid_tgid, __u64 kernel_count, __u64 now,
				      struct thread *gil_waiter)
{
	__u32 pid = pid_tgid >> 32;
	struct process *process = bpf_map_lookup_elem(&processes, &pid);
	struct process seen = { .pid = pid };
	if (process)
		seen = copy_process(process, pid);
	fill_sample_head(scratch, pid_tgid, &seen, 0, now);
	scratch->sample.kernel_count = kernel_count;
	if (save_entry_registers(scratch))
		scratch->sample.outcome = OUTCOME_NO_USER_REGISTERS;
	else if (process)
		walk_stacks(scratch, &seen, (__u32)pid_tgid, now);
	if (gil_waiter && scratch->sample.flags & SAMPLE_PYTHON_THREAD) {
		find_holder(scratch, gil_waiter);
		note_holder(scratch, gil_waiter, now);
	}
	__u64 bytes = sizeof(struct wait_event) + sizeof(struct sample_event) + frames_bytes(scratch);
	if (bpf_ringbuf_output(&ring, &scratch->wait, bytes, ring_flags(scratch->sample.outcome)))
		return -1;
	count(COUNTER_WAITS, 1);
	__u64 ended_ns = bpf_ktime_get_ns(); /* `now` may be by the scheduler's clock */
	count(COUNTER_OFF_CPU_NS, ended_ns > now ? ended_ns - now : 0);
	return 0;
}

static __always_inline int emit_more(const struct thread *thread, __u32 sequence, __u64 pid_tgid, __u64 now)
{
	struct wait_event wait = {
		.head = { .time_ns = now, .pid = pid_tgid >> 32, .type = EVENT_WAIT_MORE },
		.began_ns = thread->wait_began_ns,
		.blocked_ns = thread->wait_blocked_ns,
		.queue_ns = thread->wait_queue_ns,
		.run_sum_ns = run_sum_ns(thread, now),
		.queue_sum_ns = thread->queue_ns,
		.argument = thread->argument,
		.tid = (__u32)pid_tgid,
		.sequence = sequence,
		.call = thread->call,
		.waker_pid = thread->waker_pid,
		.waker_tid = thread->waker_tid,
		.waker_call = thread->waker_call,
		.flags = thread->flags,
	};
	__builtin_memcpy(wait.waker_comm, thread->waker_comm, COMM_BYTES);
	return bpf_ringbuf_output(&ring, &wait, sizeof(wait), RING_LAZY);
}

/* Copies what is known of the interpreter of process `pid` to scratch->python. 0 on success. */
static __always_inline int copy_python(struct scratch *scratch, __u32 pid)
{
	__u32 zero = 0;
	struct process *process = bpf_map_lookup_elem(&processes, &pid);
	const struct python *all = bpf_map_lookup_elem(&pythons, &zero);
	if (!process || !all)
		return -1;
	struct process seen = copy_process(process, pid);
	if (!seen.python || seen.python >= python_capacity)
		return -1;
	scratch->python = all[seen.python];
	return 0;
}

/* Tells that the wait for Python's lock that was told last took longer, and who has the lock. 0 when it went up. */
static __always_inline int tell_retry(struct scratch *scratch, struct thread *thread, __u64 pid_tgid, __u64 now)
{
	fill_wait(scratch, thread, EVENT_WAIT_MORE, pid_tgid, now);
	scratch->wait.sequence = thread->gil_sequence;
	if (!copy_python(scratch, pid_tgid >> 32))
		note_holder(scratch, thread, now);
	return bpf_ringbuf_output(&ring, &scratch->wait, sizeof(struct wait_event), RING_LAZY);
}

/* Tells that the current thread, of the same process, hands Python's lock to the one called `pid_tgid`, and in which function
 * it had it: all that is told of who had it, and a quarter of what a stack costs. 0 when it went up. */
static __always_inline int tell_handover(struct scratch *scratch, const struct thread *thread, __u64 pid_tgid, __u64 now)
{
	fill_wait(scratch, thread, EVENT_WAKE, pid_tgid, now);
	scratch->sample.head.pid = pid_tgid >> 32;
	if (!copy_python(scratch, pid_tgid >> 32))
		note_giver(scratch, now);
	return bpf_ringbuf_output(&ring, &scratch->wait, sizeof(struct wait_event), RING_LAZY);
}

/* Tells the wait of the system call that ends, with the stack of the current thread. 0 when it went up. */
static __always_inline int tell_wait(struct thread *thread, __u64 now)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	struct scratch *scratch = find_scratch(CONTEXT_EXIT);
	if (!scratch || __sync_lock_test_and_set(&scratch->is_busy, 1))
		return -1;
	int failed;
	if (is_gil_retry(thread)) {
		failed = tell_retry(scratch, thread, pid_tgid, now);
		scratch->is_busy = 0;
		return failed;
	}
	thread->sequence++;
	fill_wait(scratch, thread, EVENT_WAIT, pid_tgid, now);
	if (thread->in_call)
		note_object(&scratch->wait.object, thread->argument);
	bpf_probe_read_kernel(scratch->frames, sizeof(thread->kernel), thread->kernel);
	__u64 words = thread->kernel_count;
	if (words > MAX_WAIT_KERNEL_FRAMES) /* cannot be; said for the verifier */
		words = MAX_WAIT_KERNEL_FRAMES;
	failed = emit_stack(scratch, pid_tgid, words, now, thread->flags & WAIT_GIL ? thread : 0);
	scratch->is_busy = 0;
	if (!failed && thread->flags & WAIT_GIL) {
		thread->gil_sequence = thread->sequence;
		thread->gil_ip = thread->ip;
		thread->gil_sp = thread->sp;
	}
	return failed;
}

#endif

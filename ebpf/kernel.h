/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only
 *
 * The few kernel types that are read, with only the fields that are read.
 * Offsets are relocated to the running kernel at load (CO-RE).
 */
#ifndef TXPROF_KERNEL_H
#define TXPROF_KERNEL_H

#include <linux/types.h>
#include <linux/bpf.h>
#include <linux/bpf_perf_event.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

/* include/linux/types.h */
typedef struct {
	int counter;
} atomic_t;

/* include/linux/sched/signal.h */
struct signal_struct {
	atomic_t live;
};

/* arch/x86/include/asm/processor.h */
struct thread_struct {
	unsigned long fsbase;
};

/* include/linux/sched.h */
struct task_struct {
	int pid;
	int tgid;
	struct thread_struct thread;
	struct task_struct *group_leader;
	struct signal_struct *signal;
	char comm[16];
};

#pragma clang attribute pop

/* arch/x86/include/uapi/asm/ptrace.h: pt_regs in the order the kernel pushes them, a stable ABI. */
struct saved_registers {
	__u64 r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8;
	__u64 rax, rcx, rdx, rsi, rdi, orig_rax, rip, cs, eflags, rsp, ss;
};

#endif

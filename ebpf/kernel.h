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

/* Nearly always so, or hardly ever: the way that is usual is laid out in one piece, which is what a switch can keep in its caches. */
#define LIKELY(condition) __builtin_expect(!!(condition), 1)
#define UNLIKELY(condition) __builtin_expect(!!(condition), 0)

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

/* include/net/sock.h, include/linux/net.h */
struct in6_addr_bytes {
	__u8 bytes[16];
};
struct sock_common {
	__u32 skc_daddr;
	__u16 skc_dport; /* network order */
	__u16 skc_num;   /* the local port, host order */
	unsigned short skc_family;
	struct in6_addr_bytes skc_v6_daddr;
};
struct sock {
	struct sock_common __sk_common;
};
struct socket {
	struct sock *sk;
};

/* include/linux/fs.h, include/linux/fdtable.h */
struct inode {
	unsigned short i_mode;
	unsigned long i_ino;
};
struct file {
	struct inode *f_inode;
	void *private_data;
};
struct fdtable {
	unsigned int max_fds;
	struct file **fd;
};
struct files_struct {
	struct fdtable *fdt;
};

/* kernel/sched/sched.h */
struct rq {
	__u64 clock; /* of the CPU, up to date as threads switch */
	__u64 clock_task; /* without what interrupts and the host took, where that is accounted for */
};
struct cfs_rq {
	struct rq *rq;
};

/* include/linux/sched.h */
struct sched_info {
	unsigned long long run_delay; /* ns queued for a CPU, as /proc/PID/schedstat says */
	unsigned long long last_queued; /* since when it is queued, by the clock of the run queue; 0: it is not */
};
struct sched_entity {
	struct cfs_rq *cfs_rq;
	__u64 exec_start;       /* up to when `sum_exec_runtime` counts, by `clock_task` */
	__u64 sum_exec_runtime; /* ns on a CPU */
};
struct task_struct {
	int pid;
	int tgid;
	struct thread_struct thread;
	struct task_struct *group_leader;
	struct signal_struct *signal;
	struct files_struct *files;
	char comm[16];
	void *stack;
	struct sched_entity se;
	struct sched_info sched_info; /* CONFIG_SCHED_INFO */
	unsigned int __state;
	unsigned int flags;
	int on_cpu;
	unsigned long nvcsw, nivcsw;
	void *task_works; /* to be done before it returns to user mode */
	void *bpf_storage; /* of all maps; 0: there is nothing of it in any */
};

/* arch/x86/include/asm/ptrace.h */
struct pt_regs___kernel {
	unsigned long ax, di, si, dx, orig_ax, ip, sp;
};

/* include/uapi/linux/bpf.h; kernel/bpf/helpers.c, since Linux 6.18. Calls `callback` in `task` before it returns to
 * user mode. 0 on success. */
struct bpf_task_work {
	__u64 opaque;
} __attribute__((aligned(8)));
struct bpf_map {
	__u32 id;
};
extern int bpf_task_work_schedule_resume_impl(struct task_struct *task, struct bpf_task_work *work, void *map,
					      int (*callback)(struct bpf_map *map, void *key, void *value), void *aux)
	__attribute__((section(".ksyms"))) __attribute__((weak));

/* kernel/bpf/helpers.c, since Linux 6.11. */
extern void bpf_preempt_disable(void) __attribute__((section(".ksyms"))) __attribute__((weak));
extern void bpf_preempt_enable(void) __attribute__((section(".ksyms"))) __attribute__((weak));

/* include/linux/bpf.h, kernel/bpf/task_iter.c */
struct seq_file;
struct bpf_iter_meta {
	struct seq_file *seq;
};
struct bpf_iter__task {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
};

#pragma clang attribute pop

/* arch/x86/include/uapi/asm/ptrace.h: pt_regs in the order the kernel pushes them, a stable ABI. */
struct saved_registers {
	__u64 r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8;
	__u64 rax, rcx, rdx, rsi, rdi, orig_rax, rip, cs, eflags, rsp, ss;
};

#endif

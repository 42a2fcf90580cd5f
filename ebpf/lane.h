/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only
 *
 * What targets receive and send on sockets, so that userland can tell requests
 * apart: how much, by which thread, its sums at that moment, and the first bytes.
 * The kernel tells each transfer on a socket itself (sock_recv_length and
 * sock_send_length, Linux 6.3), with the socket, whatever system call it was by;
 * so descriptors that are closed and used again do not matter, and no system call
 * of anybody becomes slower.
 */
#ifndef TXPROF_LANE_H
#define TXPROF_LANE_H

#include "off_cpu.h"

/* Of a socket: whether it is a server's, and how far the present message is. */
struct lane {
	__u32 pid;
	__u8 role; /* enum lane_role */
	__u8 direction; /* of the last transfer */
	__u8 strangers; /* transfers that began like no HTTP */
	__u8 transfers; /* in this direction since it changed, at most 255 */
};

enum lane_role { LANE_UNKNOWN = 0, LANE_SERVER = 1, LANE_OTHER = 2 };

/* A connection that began like no HTTP so often is something else: it may have been met in the middle of a body. */
#define MAX_STRANGERS 16
/* Transfers in one direction whose beginning is told in full: heads come in pieces, but not in more. */
#define HEAD_TRANSFERS 4
/* Buffers of a readv or writev that are looked at. */
#define MAX_BUFFERS 8

/* Of each socket of a target that was used; they go with their sockets. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct lane);
} lanes SEC(".maps");

/* key: tgid; until when each of its ticks is a sample, CLOCK_MONOTONIC. Full: it is sampled at the low rate. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, __u32);
	__type(value, __u64);
} full_rates SEC(".maps");

/* How long a request that was just read raises the rate; userland prolongs it. */
#define FULL_RATE_NS 400000000ull

/* The user's buffers of a transfer. */
struct buffers {
	__u64 vector; /* address of struct iovec; 0: `base` is the only one */
	__u64 count;
	__u64 base;
};

struct iovec_user {
	__u64 base;
	__u64 length;
};

/* Where the bytes of the transfer under way are, by the system call's arguments. 0 where that is not known. */
static __always_inline int find_buffers(struct buffers *buffers)
{
	const struct pt_regs___kernel *registers = entry_registers(bpf_get_current_task_btf());
	*buffers = (struct buffers){};
	if (!registers)
		return 0;
	__u64 second = registers->si, third = registers->dx;
	switch (registers->orig_ax) {
	case SYS_READ: case SYS_WRITE: case SYS_SENDTO: case SYS_RECVFROM:
		buffers->base = second;
		return 1;
	case SYS_READV: case SYS_WRITEV:
		buffers->vector = second;
		buffers->count = third;
		return 1;
	case SYS_SENDMSG: case SYS_RECVMSG: { /* struct user_msghdr, include/linux/socket.h */
		__u64 vector[2] = {};
		if (bpf_probe_read_user(vector, sizeof(vector), (void *)(second + 16)))
			return 0;
		buffers->vector = vector[0];
		buffers->count = vector[1];
		return 1;
	}
	}
	return 0;
}

/* Copies the first `moved` bytes, at most `room`, to `to`. Returns how many. `room` is a constant. */
static __always_inline __u32 copy_head(__u8 *to, const __u32 room, const struct buffers *buffers, __u64 moved)
{
	__u32 done = 0;
	if (!buffers->vector) {
		__u64 bytes = moved;
		__asm__ volatile("" : "+r"(bytes)); /* the verifier must see the number that is bounded */
		if (bytes > room)
			bytes = room;
		return buffers->base && !bpf_probe_read_user(to, bytes, (void *)buffers->base) ? bytes : 0;
	}
	/* Half of the room at a time: for the verifier, which does not add what it knows of two numbers. */
	const __u32 half = room / 2;
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < MAX_BUFFERS; i++) {
		struct iovec_user part;
		if (i >= buffers->count || done > half || done >= moved ||
		    bpf_probe_read_user(&part, sizeof(part), (void *)(buffers->vector + i * sizeof(part))))
			break;
		__u64 left = moved - done;
		__u64 whole = part.length < left ? part.length : left;
		__u64 bytes = whole;
		__asm__ volatile("" : "+r"(bytes)); /* the verifier must see the number that is bounded */
		if (bytes > half)
			bytes = half;
		if (bpf_probe_read_user(to + done, bytes, (void *)part.base))
			break;
		done += bytes;
		if (bytes < whole)
			break;
	}
	return done;
}

/* The last bytes of a transfer. Returns how many. */
static __always_inline __u32 copy_tail(__u8 *to, const struct buffers *buffers, __u64 moved)
{
	__u64 base = buffers->base, length = moved;
	if (buffers->vector) {
		__u64 done = 0;
		base = 0;
#pragma clang loop unroll(disable)
		for (__u32 i = 0; i < MAX_BUFFERS; i++) {
			struct iovec_user part;
			if (i >= buffers->count || done >= moved ||
			    bpf_probe_read_user(&part, sizeof(part), (void *)(buffers->vector + i * sizeof(part))))
				break;
			base = part.base;
			length = part.length < moved - done ? part.length : moved - done;
			done += length;
		}
		if (done < moved)
			return 0;
	}
	__u64 bytes = length;
	__asm__ volatile("" : "+r"(bytes));
	if (bytes > LANE_TAIL_BYTES)
		bytes = LANE_TAIL_BYTES;
	return base && !bpf_probe_read_user(to, bytes, (void *)(base + length - bytes)) ? bytes : 0;
}

/* Whether four bytes are those that requests begin with: GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH, TRACE. */
static __always_inline int is_method(__u32 word)
{
	return word == 0x20544547 || word == 0x44414548 || word == 0x54534f50 || word == 0x20545550 ||
	       word == 0x454c4544 || word == 0x4954504f || word == 0x43544150 || word == 0x43415254;
}

#define ANSWER 0x50545448 /* HTTP */
#define HTTP2_PREFACE 0x20495250 /* "PRI ", RFC 9113 section 3.4 */
#define TLS_HANDSHAKE 0x0316 /* in two bytes: the record type, and the first byte of its version, RFC 8446 section 5.1 */

/* Whether a connection is a server's whose requests cannot be seen, which is counted. A client's begins by sending. */
static __always_inline int is_veiled(const struct lane *lane, __u8 direction, __u32 word)
{
	if (direction != LANE_RECEIVED || lane->strangers)
		return 0;
	if ((word & 0xffff) == TLS_HANDSHAKE)
		count(COUNTER_TLS, 1);
	else if (word == HTTP2_PREFACE)
		count(COUNTER_HTTP2, 1);
	else
		return 0;
	return 1;
}

static __always_inline void fill_lane(struct lane_event *event, struct sock *sk, __u32 type, __u32 pid, __u64 now)
{
	__builtin_memset(event, 0, sizeof(*event));
	event->head.time_ns = now;
	event->head.pid = pid;
	event->head.type = type;
	event->socket = bpf_get_socket_cookie(sk);
}

/* What the current thread has done up to now, and that time. */
static __always_inline void fill_sums(struct lane_event *event)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct thread *thread = find_thread_of(task);
	if (!thread || !thread->since_ns)
		return;
	if (thread->state != THREAD_RUNNING)
		mend_state(task, thread, event->head.time_ns);
#pragma clang loop unroll(disable)
	for (int i = 0; i < 4; i++) { /* it may be preempted amid these lines: each change begins a state */
		__u64 since_ns = *(volatile __u64 *)&thread->since_ns;
		barrier();
		__u64 now = bpf_ktime_get_ns();
		event->head.time_ns = now;
		event->run_ns = run_sum_ns(thread, now);
		event->queue_ns = thread->queue_ns;
		event->blocked_ns = thread->blocked_ns;
		event->thin_queue_ns = thread->thin_queue_ns;
		event->thin_blocked_ns = thread->thin_blocked_ns;
		event->short_queue_ns = thread->short_queue_ns;
		event->short_blocked_ns = thread->short_blocked_ns;
		barrier();
		if (*(volatile __u64 *)&thread->since_ns == since_ns)
			return;
	}
}

#define INET 2 /* AF_INET */
#define INET6 10 /* AF_INET6 */

static __always_inline int is_internet(struct sock *sk)
{
	__u16 family = sk->__sk_common.skc_family;
	return family == INET || family == INET6;
}

static __always_inline void fill_client(struct lane_event *event, struct sock *sk)
{
	event->family = sk->__sk_common.skc_family;
	event->client_port = __builtin_bswap16(sk->__sk_common.skc_dport);
	if (event->family == INET)
		*(__u32 *)event->client = sk->__sk_common.skc_daddr;
	else if (event->family == INET6)
		BPF_CORE_READ_INTO((struct in6_addr_bytes *)event->client, sk, __sk_common.skc_v6_daddr);
}

/* Tells a transfer with up to `room`, a constant, of its first bytes. */
static __always_inline void tell_transfer(struct sock *sk, __u8 direction, __s64 moved, const struct buffers *buffers,
					  const __u32 room, __u64 coroutine, __u64 now)
{
	struct lane_event *event = bpf_ringbuf_reserve(&ring, sizeof(struct lane_event) + room, 0);
	if (!event) {
		count(COUNTER_LANE_LOST, 1);
		return;
	}
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	fill_lane(event, sk, EVENT_TRANSFER, pid_tgid >> 32, now);
	fill_sums(event);
	event->coroutine = coroutine;
	fill_client(event, sk);
	bpf_get_current_comm(event->comm, COMM_BYTES);
	event->moved = moved;
	event->tid = (__u32)pid_tgid;
	event->direction = direction;
	if (room)
		event->head_bytes = copy_head((__u8 *)(event + 1), room, buffers, moved);
	if (moved > event->head_bytes)
		event->tail_bytes = copy_tail(event->tail, buffers, moved);
	bpf_ringbuf_submit(event, bpf_ringbuf_query(&ring, BPF_RB_AVAIL_DATA) > wakeup_bytes ? RING_WAKE : RING_LAZY);
}

/* With LANE_RECEIVED as `direction` only nothing more will be received: the client may still wait for its answer. */
static __always_inline void tell_end(struct sock *sk, __u32 pid, __u8 direction, __u64 now)
{
	struct lane_event event;
	fill_lane(&event, sk, EVENT_HANG_UP, pid, now);
	event.direction = direction;
	if (bpf_ringbuf_output(&ring, &event, sizeof(event), RING_LAZY))
		count(COUNTER_LANE_LOST, 1);
}

/* What a socket is by the beginning of a transfer. */
static __always_inline enum lane_role judge_role(__u8 direction, __u32 word)
{
	if (direction == LANE_RECEIVED)
		return is_method(word) ? LANE_SERVER : LANE_UNKNOWN;
	if (is_method(word)) /* a client's */
		return LANE_OTHER;
	return word == ANSWER ? LANE_SERVER : LANE_UNKNOWN;
}

/* Whether an answer that begins with `start` is one of those before the true one, 1xx: "HTTP/1.1 100 Continue". */
static __always_inline int is_interim(const __u8 *start)
{
	return start[9] == '1';
}

/* Where the current thread answers and then receives from the same socket again, it waits for the next request. */
static __always_inline void note_answer(struct sock *sk, __u8 direction, int interim)
{
	struct thread *thread = find_thread_of(bpf_get_current_task_btf());
	if (thread)
		thread->answered = direction == LANE_SENT && !interim ? (__u64)sk : 0;
}

/* The request that was just read is sampled at the full rate. */
static __always_inline void raise_rate(__u32 pid, __u64 now)
{
	__u64 until = now + FULL_RATE_NS;
	__u64 *known = bpf_map_lookup_elem(&full_rates, &pid);
	if (known)
		*known = until; /* a fifth of what an update costs */
	else
		bpf_map_update_elem(&full_rates, &pid, &until, BPF_ANY);
}

static __always_inline int transfer(struct sock *sk, __u8 direction, __s64 moved)
{
	__u32 pid = bpf_get_current_pid_tgid() >> 32;
	const struct process *process = bpf_map_lookup_elem(&processes, &pid);
	if (!process)
		return 0;
	if (moved == 1 && direction == LANE_SENT)
		tell_by_byte(pid);
	struct lane *lane = bpf_sk_storage_get(&lanes, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!lane || lane->role == LANE_OTHER)
		return 0;
	__u64 now = bpf_ktime_get_ns();
	if (moved == 0 && direction == LANE_SENT)
		return 0; /* of nothing */
	if (moved <= 0) {
		/* Only Internet sockets tell when they are closed. */
		__u8 half = moved == 0 && is_internet(sk) ? direction : 0;
		if (lane->role == LANE_SERVER && moved != -11 && moved != -4 && moved != -512) /* EAGAIN, EINTR, ERESTARTSYS */
			tell_end(sk, pid, half, now);
		return 0;
	}
	struct buffers buffers;
	int is_found = find_buffers(&buffers);
	__u8 start[32] = {}; /* more than twice what is looked at, see copy_head */
	if (is_found && moved >= 4)
		copy_head(start, sizeof(start), &buffers, moved);
	__u32 word = *(__u32 *)start;
	if (lane->role == LANE_UNKNOWN) {
		lane->role = judge_role(direction, word);
		if (lane->role == LANE_UNKNOWN && (is_veiled(lane, direction, word) || ++lane->strangers >= MAX_STRANGERS))
			lane->role = LANE_OTHER;
		if (lane->role != LANE_SERVER)
			return 0;
	}
	lane->pid = pid;
	if (lane->direction != direction)
		lane->transfers = 0;
	lane->direction = direction;
	if (lane->transfers < 255)
		lane->transfers++;
	int begins = direction == LANE_RECEIVED ? is_method(word) : word == ANSWER;
	if (begins && direction == LANE_RECEIVED)
		raise_rate(pid, now);
	note_answer(sk, direction, begins && is_interim(start));
	__u64 coroutine = direction == LANE_SENT && process->python ? running_coroutine(process->python) : 0;
	if (!is_found || (!begins && lane->transfers > HEAD_TRANSFERS))
		tell_transfer(sk, direction, moved, &buffers, 0, coroutine, now);
	else if (moved <= LANE_TINY_BYTES)
		tell_transfer(sk, direction, moved, &buffers, LANE_TINY_BYTES, coroutine, now);
	else if (direction == LANE_SENT || moved <= LANE_SMALL_BYTES)
		tell_transfer(sk, direction, moved, &buffers, LANE_SMALL_BYTES, coroutine, now);
	else
		tell_transfer(sk, direction, moved, &buffers, LANE_HEAD_BYTES, coroutine, now);
	return 0;
}

/* TP_PROTO(struct sock *sk, int ret, int flags), include/trace/events/sock.h; peeking is told as 0 bytes. */
SEC("tp_btf/sock_recv_length")
int lane_receive(__u64 *ctx)
{
	int peeks = ctx[2] & 2; /* MSG_PEEK */
	return peeks ? 0 : transfer((struct sock *)ctx[0], LANE_RECEIVED, (__s32)ctx[1]);
}

SEC("tp_btf/sock_send_length")
int lane_send(__u64 *ctx)
{
	return transfer((struct sock *)ctx[0], LANE_SENT, (__s32)ctx[1]);
}

/* TP_PROTO(const struct sock *sk, const int oldstate, const int newstate), of TCP: shut down, closed, reset. Whatever
 * runs now may have nothing to do with it. */
SEC("tp_btf/inet_sock_set_state")
int lane_close(__u64 *ctx)
{
	struct sock *sk = (struct sock *)ctx[0];
	int state = ctx[2];
	if (state != 4 && state != 7 && state != 9) /* TCP_FIN_WAIT1, TCP_CLOSE, TCP_LAST_ACK */
		return 0;
	struct lane *lane = bpf_sk_storage_get(&lanes, sk, 0, 0);
	if (!lane || lane->role != LANE_SERVER)
		return 0;
	lane->role = LANE_OTHER;
	tell_end(sk, lane->pid, 0, bpf_ktime_get_ns());
	return 0;
}

/* How many ticks the one on a thread of `pid` stands for: 1 while a request is served there, else one in `base_share`
 * stands for as many and the others for 0, which are no samples. */
static __always_inline __u32 tick_share(__u32 pid, __u64 now)
{
	if (base_share <= 1)
		return 1;
	__u64 *until = bpf_map_lookup_elem(&full_rates, &pid);
	if (until && now < *until)
		return 1;
	return bpf_get_prandom_u32() % base_share == 0 ? base_share : 0;
}

#endif

/* The program's own account of where its CPU time goes.
 *
 * File format, at the path in $ORACLE: ORACLE_SLOTS little-endian u64, each
 * the nanoseconds of thread CPU time burnt so far in the leaf of that number;
 * the last slot counts units of work. It is mapped shared, so that a reader
 * of the file always sees the present. Without $ORACLE the account is private.
 * Every program ends by itself after $ORACLE_SECONDS (300 when unset).
 */
#ifndef ORACLE_H
#define ORACLE_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define ORACLE_SLOTS 16
#define ORACLE_UNITS (ORACLE_SLOTS - 1)
/* About 100 us: long enough that reading the clock is 0.5 % of it. */
#define ORACLE_CHUNK 100000

static uint64_t *oracle_account;

static inline __attribute__((always_inline)) uint64_t oracle_thread_cpu_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline void oracle_open(void)
{
	const char *path = getenv("ORACLE"), *seconds = getenv("ORACLE_SECONDS");
	int fd = path ? open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644) : -1;
	int flags = fd < 0 ? MAP_SHARED | MAP_ANONYMOUS : MAP_SHARED;
	void *map;

	if (path && (fd < 0 || ftruncate(fd, ORACLE_SLOTS * sizeof(uint64_t)))) {
		perror(path);
		exit(2);
	}
	map = mmap(NULL, ORACLE_SLOTS * sizeof(uint64_t), PROT_READ | PROT_WRITE, flags, fd, 0);
	if (map == MAP_FAILED) {
		perror("mmap");
		exit(2);
	}
	oracle_account = (uint64_t *)map;
	if (fd >= 0)
		close(fd);
	alarm(seconds ? (unsigned)atoi(seconds) : 300);
}

/* Adds to a slot; atomic, as threads and forked children share the account. */
static inline __attribute__((always_inline)) void oracle_add(int slot, uint64_t amount)
{
	__atomic_fetch_add(&oracle_account[slot], amount, __ATOMIC_RELAXED);
}

/* Burns quota_ns of this thread's CPU time inside the calling function. */
static inline __attribute__((always_inline)) void oracle_burn(int slot, uint64_t quota_ns)
{
	uint64_t began = oracle_thread_cpu_ns(), before = began, now, x = began | 1;

	do {
		for (int i = 0; i < ORACLE_CHUNK; i++) {
			x = x * 6364136223846793005u + 1442695040888963407u;
			__asm__ volatile("" : "+r"(x));
		}
		now = oracle_thread_cpu_ns();
		oracle_add(slot, now - before);
		oracle_add(ORACLE_UNITS, 1);
		before = now;
	} while (now - began < quota_ns);
}

/* A number from 0 to bound-1: jitters the work, lest it beat with the sampling. */
static inline uint64_t oracle_random(uint64_t bound)
{
	static __thread uint64_t state;

	if (!state)
		state = oracle_thread_cpu_ns() | 1;
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state % bound;
}

/* quota_ns, give or take a quarter. */
static inline uint64_t oracle_jitter(uint64_t quota_ns)
{
	return quota_ns * 3 / 4 + oracle_random(quota_ns / 2);
}

/* A function that is a frame of its own in every build. */
#define FRAME __attribute__((noinline, noclone, used))
#ifdef __clang__
#undef FRAME
#define FRAME __attribute__((noinline, used))
#endif
/* Keeps the call before it from becoming a jump. */
#define NOT_A_TAIL_CALL() __asm__ volatile("" ::: "memory")

#endif

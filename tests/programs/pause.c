/* Truth: measures its own interruptions. A SCHED_FIFO thread spins on the clock for 4 ms every
 * 20 ms for argv[1] seconds and prints, in nanoseconds, the largest gap between two readings,
 * the 99.9th percentile of the gaps above 1 us, and how many such gaps there were. Needs CAP_SYS_NICE. */
#include "oracle.h"
#include <sched.h>

#define GAPS 1000000

static uint64_t gaps[GAPS];

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int ascending(const void *left, const void *right)
{
	uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;

	return a < b ? -1 : a > b;
}

int main(int argc, char **argv)
{
	struct sched_param priority = {.sched_priority = 50};
	uint64_t seconds = argc > 1 ? (uint64_t)atoi(argv[1]) : 10, end = now_ns() + seconds * 1000000000u;
	size_t count = 0;

	if (sched_setscheduler(0, SCHED_FIFO, &priority)) {
		perror("sched_setscheduler");
		return 2;
	}
	while (now_ns() < end) {
		struct timespec rest = {0, 16000000};
		uint64_t began = now_ns(), before = began, now;

		do {
			now = now_ns();
			if (now - before > 1000 && count < GAPS)
				gaps[count++] = now - before;
			before = now;
		} while (now - began < 4000000);
		nanosleep(&rest, NULL);
	}
	qsort(gaps, count, sizeof gaps[0], ascending);
	printf("%lu %lu %zu\n", count ? gaps[count - 1] : 0, count ? gaps[count - 1 - count / 1000] : 0, count);
	return 0;
}

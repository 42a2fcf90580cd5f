/* Truth: three threads named alpha, beta and gamma burn 6, 3 and 1 parts in
 * thread_leaf; argv[1] more threads (none when absent), named sleeper, only sleep. */
#include "oracle.h"
#include <pthread.h>

FRAME void thread_leaf(int slot, uint64_t quota_ns) { oracle_burn(slot, quota_ns); }

static const char *const names[] = {"alpha", "beta", "gamma"};
static const uint64_t parts_ns[] = {6000000, 3000000, 1000000};

static void *run(void *argument)
{
	int slot = (int)(intptr_t)argument;

	pthread_setname_np(pthread_self(), names[slot]);
	for (;;) {
		struct timespec rest = {0, 15000000};
		thread_leaf(slot, parts_ns[slot]);
		nanosleep(&rest, NULL);
	}
	return NULL;
}

static void *sleep_on(void *argument)
{
	(void)argument;
	pthread_setname_np(pthread_self(), "sleeper");
	for (;;)
		pause();
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t thread;

	oracle_open();
	for (intptr_t slot = 0; slot < 3; slot++)
		if (pthread_create(&thread, NULL, run, (void *)slot))
			return 2;
	for (int left = argc > 1 ? atoi(argv[1]) : 0; left > 0; left--)
		if (pthread_create(&thread, NULL, sleep_on, NULL))
			return 2;
	for (;;)
		pause();
}

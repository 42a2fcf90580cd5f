/* Truth: nearly all time is spent in the vDSO, called by `ask_the_time`. */
#include "oracle.h"

FRAME void ask_the_time(void)
{
	uint64_t before = oracle_thread_cpu_ns();
	struct timespec now;

	for (int i = 0; i < 100000; i++)
		clock_gettime(CLOCK_MONOTONIC, &now);
	oracle_add(0, oracle_thread_cpu_ns() - before);
}

int main(void)
{
	oracle_open();
	for (;;)
		ask_the_time();
}

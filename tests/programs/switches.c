/* A server and its client, two threads that take turns through pipes on one CPU: each hand-over is a
 * context switch, and each turn works for as many rounds as the first argument says. Each round trip is a
 * unit of work. The second argument, if any, is the number of such pairs. */
#include <pthread.h>

#include "oracle.h"

static long rounds;

struct pair {
	int request[2], answer[2];
};

static void fail(void)
{
	_exit(1);
}

__attribute__((noinline)) static uint64_t work(uint64_t value)
{
	for (long i = 0; i < rounds; i++)
		value = value * 6364136223846793005u + (value >> 33);
	return value;
}

static void *serve(void *argument)
{
	struct pair *pair = argument;
	uint64_t value;
	while (read(pair->request[0], &value, sizeof value) == sizeof value) {
		value = work(value);
		if (write(pair->answer[1], &value, sizeof value) != sizeof value)
			fail();
	}
	return 0;
}

static void *ask(void *argument)
{
	struct pair *pair = argument;
	uint64_t value = 1;
	for (;;) {
		value = work(value);
		if (write(pair->request[1], &value, sizeof value) != sizeof value ||
		    read(pair->answer[0], &value, sizeof value) != sizeof value)
			fail();
		oracle_add(ORACLE_UNITS, 1);
	}
}

int main(int count, char **arguments)
{
	oracle_open();
	rounds = count > 1 ? atol(arguments[1]) : 0;
	int pairs = count > 2 ? atoi(arguments[2]) : 1;
	for (int i = 0; i < pairs; i++) {
		struct pair *pair = calloc(1, sizeof *pair);
		pthread_t thread;
		if (!pair || pipe(pair->request) || pipe(pair->answer) || pthread_create(&thread, 0, serve, pair) ||
		    pthread_create(&thread, 0, ask, pair))
			fail();
	}
	pause();
}

/* Truth: COUNT children, argv[1] of them, are born one every 5 ms from the start on. All sleep until
 * 2 s after the start; then each burns 20 ms in born_leaf and ends, and with the last one the parent.
 * Slot 1 counts births. */
#include "oracle.h"
#include <sys/wait.h>

FRAME void born_leaf(void) { oracle_burn(0, 20000000); }

int main(int argc, char **argv)
{
	struct timespec pause = {0, 5000000}, awakening;

	oracle_open();
	clock_gettime(CLOCK_MONOTONIC, &awakening);
	awakening.tv_sec += 2;
	for (int left = argc > 1 ? atoi(argv[1]) : 1; left > 0; left--) {
		if (fork() == 0) {
			clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &awakening, NULL);
			born_leaf();
			_exit(0);
		}
		oracle_add(1, 1);
		nanosleep(&pause, NULL);
	}
	while (wait(NULL) > 0)
		;
	return 0;
}

/* Truth: forked workers that never exec burn in forked_leaf (60 %), workers that exec
 * this program again burn in execed_leaf (40 %); the parent burns nothing. Each worker
 * lives 120 or 80 ms, so all but one are born while one records. Slot 2 has what their
 * starts and ends burnt, half a percent of all.
 * `children churn COUNT` starts COUNT workers that exec and exit at once, then sleeps. */
#include "oracle.h"
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>

FRAME void forked_leaf(void) { oracle_burn(0, 120000000); }
FRAME void execed_leaf(void) { oracle_burn(1, 80000000); }

static void start(char *self, const char *kind)
{
	uint64_t in_leaves = oracle_account[0] + oracle_account[1], all;
	struct rusage usage;
	pid_t child = fork();

	if (child == 0) {
		if (!kind) {
			forked_leaf();
			_exit(0);
		}
		execl(self, self, kind, (char *)NULL);
		_exit(127);
	}
	if (wait4(child, NULL, 0, &usage) < 0)
		return;
	in_leaves = oracle_account[0] + oracle_account[1] - in_leaves;
	all = (uint64_t)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000000u;
	all += (uint64_t)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1000u;
	oracle_add(2, all > in_leaves ? all - in_leaves : 0);
}

int main(int argc, char **argv)
{
	int churn = argc > 2 && !strcmp(argv[1], "churn") ? atoi(argv[2]) : 0;

	if (argc > 1 && !strcmp(argv[1], "nothing"))
		return 0;
	oracle_open();
	if (argc > 1 && !strcmp(argv[1], "worker")) {
		execed_leaf();
		return 0;
	}
	for (int i = 0; i < churn; i++) {
		start("/proc/self/exe", "nothing");
		oracle_add(4, 1);
	}
	for (;;) {
		if (churn) {
			pause();
			continue;
		}
		start("/proc/self/exe", NULL);
		start("/proc/self/exe", "worker");
	}
}

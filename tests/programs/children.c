/* Truth: forked workers that never exec burn in forked_leaf (60 %), workers that exec
 * this program again burn in execed_leaf (40 %); the parent burns nothing. Each worker
 * lives 60 or 40 ms, so all of them are born while one records.
 * `children churn COUNT` starts COUNT workers that exec and exit at once, then sleeps. */
#include "oracle.h"
#include <string.h>
#include <sys/wait.h>

FRAME void forked_leaf(void) { oracle_burn(0, 60000000); }
FRAME void execed_leaf(void) { oracle_burn(1, 40000000); }

static void start(char *self, const char *kind)
{
	pid_t child = fork();

	if (child == 0) {
		if (!kind) {
			forked_leaf();
			_exit(0);
		}
		execl(self, self, kind, (char *)NULL);
		_exit(127);
	}
	waitpid(child, NULL, 0);
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
		oracle_add(0, 1);
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

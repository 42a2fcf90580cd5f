/* Truth: leaf_60, leaf_30 and leaf_10 burn 60, 30 and 10 % of the CPU time, each
 * under argv[1] (100 when absent) frames of `recurse` under `main`. */
#include "oracle.h"

FRAME void leaf_60(void) { oracle_burn(0, oracle_jitter(12000000)); }
FRAME void leaf_30(void) { oracle_burn(1, oracle_jitter(6000000)); }
FRAME void leaf_10(void) { oracle_burn(2, oracle_jitter(2000000)); }

FRAME void recurse(int depth, void (*leaf)(void))
{
	if (depth > 1)
		recurse(depth - 1, leaf);
	else
		leaf();
	NOT_A_TAIL_CALL();
}

int main(int argc, char **argv)
{
	int depth = argc > 1 ? atoi(argv[1]) : 100;

	oracle_open();
	for (;;) {
		recurse(depth, leaf_60);
		recurse(depth, leaf_30);
		recurse(depth, leaf_10);
	}
}

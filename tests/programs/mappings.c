/* Truth: maps its own file executable argv[1] times (5000 when absent), at addresses that do
 * not merge, then burns in leaf_60, leaf_30 and leaf_10 as split.c does, under 57 recursions. */
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
	int count = argc > 1 ? atoi(argv[1]) : 5000, fd = open("/proc/self/exe", O_RDONLY);

	for (int i = 0; i < count; i++)
		if (mmap(NULL, 4096, PROT_READ | (i % 2 ? PROT_EXEC : 0), MAP_PRIVATE, fd, 0) == MAP_FAILED)
			return 2;
	oracle_open();
	for (;;) {
		recurse(57, leaf_60);
		recurse(57, leaf_30);
		recurse(57, leaf_10);
	}
}

/* Truth: `bottom` burns everything under 2000 frames of `dive`: no tool that
 * stops at fewer frames reaches `main`. */
#include "oracle.h"

FRAME void bottom(void) { oracle_burn(0, 5000000); }

FRAME void dive(int depth)
{
	if (depth > 1)
		dive(depth - 1);
	else
		bottom();
	NOT_A_TAIL_CALL();
}

int main(int argc, char **argv)
{
	int depth = argc > 1 ? atoi(argv[1]) : 2000;

	oracle_open();
	for (;;)
		dive(depth);
}

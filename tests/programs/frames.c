/* Truth: four odd frame shapes burn a quarter each, all under main;odd_frames:
 * under_realigned (below a frame whose stack is realigned, so that its CFA is an
 * expression), under_alloca, under_vla, and under_huge (below a frame of 100 KiB,
 * more than a signed 16-bit offset holds). */
#include "oracle.h"
#include <alloca.h>
#include <string.h>

#define QUARTER oracle_jitter(5000000)

FRAME void under_realigned(void) { oracle_burn(0, QUARTER); }
FRAME void under_alloca(void) { oracle_burn(1, QUARTER); }
FRAME void under_vla(void) { oracle_burn(2, QUARTER); }
FRAME void under_huge(void) { oracle_burn(3, QUARTER); }

static void keep(void *memory) { __asm__ volatile("" : : "r"(memory) : "memory"); }

__attribute__((force_align_arg_pointer)) FRAME void realigned(int size)
{
	_Alignas(64) char aligned[256];
	/* A variable size beside the alignment makes GCC keep the old stack pointer in another register. */
	char *more = (char *)alloca((size_t)size);

	memset(aligned, size, sizeof aligned);
	keep(aligned);
	keep(more);
	under_realigned();
	NOT_A_TAIL_CALL();
}

FRAME void with_alloca(int size)
{
	char *memory = (char *)alloca((size_t)size);

	keep(memory);
	under_alloca();
	NOT_A_TAIL_CALL();
}

FRAME void with_vla(int size)
{
	char memory[size];

	keep(memory);
	under_vla();
	NOT_A_TAIL_CALL();
}

FRAME void with_huge_frame(void)
{
	char memory[100 * 1024];

	keep(memory);
	under_huge();
	NOT_A_TAIL_CALL();
}

FRAME void odd_frames(void)
{
	int size = 100 + (int)oracle_random(5000);

	realigned(size);
	with_alloca(size);
	with_vla(size);
	with_huge_frame();
}

int main(void)
{
	oracle_open();
	for (;;)
		odd_frames();
}

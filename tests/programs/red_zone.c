/* Truth: nearly everything burns in main;on_rbp;popped, whose unwind rows look for its caller's rbp below the stack
 * pointer, where it was popped from, as they do between any function's last pop and its ret; and on_rbp finds its own
 * caller by rbp alone. */
#include "oracle.h"
#include <alloca.h>

void popped(uint64_t turns);
__asm__(".text\n"
	".type popped, @function\n"
	"popped:\n"
	"	.cfi_startproc\n"
	"	push %rbp\n"
	"	.cfi_def_cfa_offset 16\n"
	"	.cfi_offset rbp, -16\n"
	"	mov $12345, %ebp\n"
	"	pop %rbp\n"
	"	.cfi_def_cfa_offset 8\n"
	"0:	dec %rdi\n"
	"	jnz 0b\n"
	"	ret\n"
	"	.cfi_endproc\n"
	".size popped, . - popped\n");

FRAME void on_rbp(uint64_t size)
{
	void *memory = alloca(size);
	uint64_t before = oracle_thread_cpu_ns();

	__asm__ volatile("" : : "r"(memory) : "memory");
	popped(20000000);
	oracle_add(0, oracle_thread_cpu_ns() - before);
}

int main(void)
{
	oracle_open();
	for (;;)
		on_rbp(100 + oracle_random(5000));
}

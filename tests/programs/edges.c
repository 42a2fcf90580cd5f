/* Truth: `leave` burns everything, half of it under main;end_of_function, whose last instruction is the call, so
 * that its return address is behind it; half under main;on_rbx;clobbers_rbx, where on_rbx finds its caller by rbx
 * alone, which clobbers_rbx has saved and overwritten. */
#include "oracle.h"
#include <setjmp.h>

static jmp_buf back;

__attribute__((noreturn)) FRAME void leave(int slot)
{
	oracle_burn(slot, oracle_jitter(5000000));
	longjmp(back, 1);
}

__attribute__((noreturn)) FRAME void end_of_function(void)
{
	char memory[1000];

	__asm__ volatile("" : : "r"(memory) : "memory");
	leave(0);
}

FRAME void clobbers_rbx(void)
{
	__asm__ volatile("xor %%ebx, %%ebx" : : : "rbx");
	leave(1);
}

void on_rbx(void (*callee)(void));
__asm__(".text\n"
	".type on_rbx, @function\n"
	"on_rbx:\n"
	"	.cfi_startproc\n"
	"	push %rbx\n"
	"	.cfi_def_cfa_offset 16\n"
	"	.cfi_offset rbx, -16\n"
	"	mov %rsp, %rbx\n"
	"	.cfi_def_cfa_register rbx\n"
	"	sub $496, %rsp\n"
	"	and $-32, %rsp\n"
	"	call *%rdi\n"
	"	mov %rbx, %rsp\n"
	"	.cfi_def_cfa_register rsp\n"
	"	pop %rbx\n"
	"	.cfi_def_cfa_offset 8\n"
	"	ret\n"
	"	.cfi_endproc\n"
	".size on_rbx, . - on_rbx\n");

int main(void)
{
	oracle_open();
	for (volatile int turn = 0;; turn++) {
		if (setjmp(back))
			continue;
		if (turn & 1)
			on_rbx(clobbers_rbx);
		else
			end_of_function();
	}
}

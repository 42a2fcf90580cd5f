/* Truth: on_signal, on an alternate stack, burns 50 %; `interrupted` below which
 * it is delivered burns the other 50 %. Through the signal frame the stack reads
 * main;work;interrupted;...;on_signal. */
#include "oracle.h"
#include <signal.h>

FRAME void handler_leaf(void) { oracle_burn(0, oracle_jitter(5000000)); }

FRAME void on_signal(int signal)
{
	(void)signal;
	handler_leaf();
	NOT_A_TAIL_CALL();
}

FRAME void interrupted(void)
{
	oracle_burn(1, oracle_jitter(5000000));
	/* By system call, so that no libc frame stands between. */
	__asm__ volatile("syscall" : : "a"(62 /* kill */), "D"(getpid()), "S"(SIGUSR1) : "rcx", "r11", "memory");
	NOT_A_TAIL_CALL();
}

FRAME void work(void)
{
	interrupted();
	NOT_A_TAIL_CALL();
}

int main(void)
{
	stack_t stack = {.ss_size = 64 * 1024, .ss_sp = malloc(64 * 1024)};
	struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK};

	oracle_open();
	if (sigaltstack(&stack, NULL) || sigaction(SIGUSR1, &action, NULL))
		return 2;
	for (;;)
		work();
}

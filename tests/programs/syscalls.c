/* Truth: read_zeros spends its part in the kernel, below read(2) of /dev/zero;
 * user_leaf spends its part in user space; 60 to 40. */
#include "oracle.h"

static char buffer[1 << 16];

FRAME void read_zeros(int fd, uint64_t quota_ns)
{
	uint64_t began = oracle_thread_cpu_ns(), before = began, now;

	do {
		for (int i = 0; i < 20; i++)
			if (read(fd, buffer, sizeof buffer) < 0)
				exit(2);
		now = oracle_thread_cpu_ns();
		oracle_add(0, now - before);
		before = now;
	} while (now - began < quota_ns);
}

FRAME void user_leaf(uint64_t quota_ns) { oracle_burn(1, quota_ns); }

int main(void)
{
	int fd = open("/dev/zero", O_RDONLY);

	oracle_open();
	for (;;) {
		read_zeros(fd, oracle_jitter(6000000));
		user_leaf(oracle_jitter(4000000));
	}
}

/* Truth: generated code, named only in /tmp/perf-PID.map and keeping frame pointers, burns 75 %
 * in jit_inner (called by jit_outer), the compiled leaf 25 %. A third function,
 * jit_late, is generated and named one second after the start and takes half of jit_inner's part. */
#include "oracle.h"
#include <string.h>

/* push rbp; mov rbp,rsp; mov rcx,rdi; 1: dec rcx; jnz 1b; pop rbp; ret */
static const unsigned char inner_code[] = {0x55, 0x48, 0x89, 0xe5, 0x48, 0x89, 0xf9, 0x48,
					   0xff, 0xc9, 0x75, 0xfb, 0x5d, 0xc3};
/* push rbp; mov rbp,rsp; call rsi; pop rbp; ret */
static const unsigned char outer_code[] = {0x55, 0x48, 0x89, 0xe5, 0xff, 0xd6, 0x5d, 0xc3};

typedef void (*inner_fn)(uint64_t rounds);
typedef void (*outer_fn)(uint64_t rounds, inner_fn inner);

static unsigned char *arena;
static size_t arena_used;

static void *emit(const char *name, const unsigned char *code, size_t size)
{
	char path[64];
	unsigned char *at = arena + arena_used;
	FILE *map;

	snprintf(path, sizeof path, "/tmp/perf-%d.map", getpid());
	memcpy(at, code, size);
	arena_used += 256;
	map = fopen(path, "a");
	if (!map)
		exit(2);
	fprintf(map, "%lx %zx %s\n", (unsigned long)at, size, name);
	fclose(map);
	return at;
}

FRAME void compiled_leaf(void) { oracle_burn(2, oracle_jitter(4000000)); }

FRAME void run_generated(int slot, outer_fn outer, inner_fn inner, uint64_t quota_ns)
{
	uint64_t began = oracle_thread_cpu_ns(), before = began, now;

	do {
		outer(200000, inner);
		now = oracle_thread_cpu_ns();
		oracle_add(slot, now - before);
		before = now;
	} while (now - began < quota_ns);
}

int main(void)
{
	inner_fn inner, late = NULL;
	outer_fn outer;

	oracle_open();
	arena = mmap(NULL, 65536, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (arena == MAP_FAILED)
		return 2;
	inner = (inner_fn)emit("jit_inner", inner_code, sizeof inner_code);
	outer = (outer_fn)emit("jit_outer", outer_code, sizeof outer_code);
	for (;;) {
		if (!late && oracle_thread_cpu_ns() > 1000000000u)
			late = (inner_fn)emit("jit_late", inner_code, sizeof inner_code);
		run_generated(0, outer, inner, oracle_jitter(6000000));
		run_generated(late ? 1 : 0, outer, late ? late : inner, oracle_jitter(6000000));
		compiled_leaf();
	}
}

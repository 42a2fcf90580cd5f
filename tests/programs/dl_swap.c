/* Truth: two libraries of equal layout take turns at the same address, 200 ms
 * each; leaf_a burns 75 %, leaf_b 25 %. A leaf seen under the wrong name, or an
 * offset into the wrong file, is a mapping that was not renewed. */
#include "oracle.h"
#include <dlfcn.h>
#include <string.h>

FRAME void call_library(const char *path, const char *name, int slot, uint64_t quota_ns)
{
	void *library = dlopen(path, RTLD_NOW);
	void (*leaf)(uint64_t *, int, uint64_t) = library ? (void (*)(uint64_t *, int, uint64_t))dlsym(library, name) : NULL;

	if (!leaf) {
		fprintf(stderr, "%s\n", dlerror());
		exit(2);
	}
	/* A slot for the address at which the leaf stood, so that a test can see that it is shared. */
	oracle_account[slot + 4] = (uint64_t)leaf;
	leaf(oracle_account, slot, quota_ns);
	dlclose(library);
}

int main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	oracle_open();
	for (;;) {
		call_library(argv[1], "leaf_a", 0, 300000000);
		call_library(argv[2], "leaf_b", 1, 100000000);
	}
}

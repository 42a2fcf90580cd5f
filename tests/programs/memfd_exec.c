/* Truth: runs argv[1] from an anonymous file: the program that follows has no
 * path, and /proc/PID/exe reads `/memfd:program (deleted)`. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

int main(int argc, char **argv, char **environment)
{
	int from = argc > 1 ? open(argv[1], O_RDONLY | O_CLOEXEC) : -1, to = memfd_create("program", MFD_CLOEXEC);
	struct stat about;

	if (from < 0 || to < 0 || fstat(from, &about) || sendfile(to, from, NULL, (size_t)about.st_size) != about.st_size)
		return 2;
	fexecve(to, argv + 1, environment);
	return 3;
}

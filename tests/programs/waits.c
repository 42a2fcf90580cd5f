/* Waits of every kind, each in a function of its own.
 *
 *	waits phases       the main thread sleeps, waits for a lock, a pipe and a disk, and computes, in turn. The slots
 *	                   0 to 4 hold the time that passed in each, in nanoseconds.
 *	waits sleepers N   N threads that never wake.
 *	waits busy N       N threads that compute.
 *	waits passes       eight threads that pass bytes to and fro, two by two, on any CPU, as fast as they can, but for a
 *	                   millisecond in fifty, for all at once.
 *	waits becomes      a thread other than the first makes the process anew, after a second, with a thread that
 *	                   computes.
 *	waits wakers       threads that are woken by a bell, a pipe, a connection and a timer.
 */
#include <arpa/inet.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>

#include "oracle.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER, bell_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t bell = PTHREAD_COND_INITIALIZER;
static int pipe_ends[2], connection[2], passes[8][2], disk;
static volatile int wants_lock, wants_byte;

static uint64_t now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void rest(long milliseconds)
{
	struct timespec time = { .tv_nsec = milliseconds * 1000000 };
	nanosleep(&time, 0);
}

static void compute(uint64_t quota_ns)
{
	for (uint64_t began = now_ns(); now_ns() - began < quota_ns;)
		;
}

FRAME static void sleep_phase(void)
{
	rest(10);
	NOT_A_TAIL_CALL();
}

FRAME static void lock_phase(void)
{
	wants_lock = 1;
	while (wants_lock) /* until the other has it */
		;
	pthread_mutex_lock(&lock);
	pthread_mutex_unlock(&lock);
	NOT_A_TAIL_CALL();
}

FRAME static void pipe_phase(void)
{
	char byte;
	wants_byte = 1;
	if (read(pipe_ends[0], &byte, 1) != 1)
		_exit(1);
	NOT_A_TAIL_CALL();
}

FRAME static void disk_phase(void)
{
	static char block[1 << 16];
	if (pwrite(disk, block, sizeof block, 0) != sizeof block || fsync(disk))
		_exit(1);
	NOT_A_TAIL_CALL();
}

FRAME static void compute_phase(void)
{
	compute(10000000);
	NOT_A_TAIL_CALL();
}

static void *keep_lock(void *unused)
{
	for (;;) {
		while (!wants_lock)
			rest(1);
		pthread_mutex_lock(&lock);
		wants_lock = 0;
		rest(10);
		pthread_mutex_unlock(&lock);
	}
	return unused;
}

static void *fill_pipe(void *unused)
{
	for (;;) {
		while (!wants_byte)
			rest(1);
		wants_byte = 0;
		rest(10);
		if (write(pipe_ends[1], "", 1) != 1)
			_exit(1);
	}
	return unused;
}

static void run_phases(void)
{
	void (*phases[])(void) = { sleep_phase, lock_phase, pipe_phase, disk_phase, compute_phase };
	uint64_t before = now_ns();
	for (int i = 0;; i = (i + 1) % 5) {
		phases[i]();
		uint64_t after = now_ns();
		oracle_add(i, after - before);
		before = after;
	}
}

FRAME static void *sleeper(void *unused)
{
	for (;;)
		pause();
	return unused;
}

FRAME static void *busy(void *unused)
{
	for (;;) {
		compute(1000000);
		oracle_add(ORACLE_UNITS, 1);
	}
	return unused;
}

/* Where threads wake each other without end, there are kernels whose own threads, which write to disks, are not given a CPU for
 * minutes. */
static void leave_room(void)
{
	if (now_ns() % 50000000 < 1000000)
		rest(1);
}

static void *pass(void *unused)
{
	static int number;
	int own = __atomic_fetch_add(&number, 1, __ATOMIC_RELAXED);
	char byte = 0;
	if (own % 2 == 0 && write(passes[own ^ 1][1], &byte, 1) != 1)
		_exit(1);
	while (read(passes[own][0], &byte, 1) == 1 && write(passes[own ^ 1][1], &byte, 1) == 1) {
		oracle_add(ORACLE_UNITS, 1);
		leave_room();
	}
	return unused;
}

FRAME static void before_exec(void)
{
	struct timespec second = { .tv_sec = 1 };
	nanosleep(&second, 0);
	NOT_A_TAIL_CALL();
}

static void *become(void *unused)
{
	before_exec();
	execl("/proc/self/exe", "waits", "busy", "1", (char *)0);
	_exit(1);
	return unused;
}

FRAME static void *wait_for_bell(void *unused)
{
	pthread_mutex_lock(&bell_lock);
	for (;;)
		pthread_cond_wait(&bell, &bell_lock);
	return unused;
}

FRAME static void *wait_for_pipe(void *unused)
{
	for (;;)
		pipe_phase();
	return unused;
}

FRAME static void *wait_for_word(void *unused)
{
	char word[8];
	while (recv(connection[0], word, sizeof word, 0) > 0)
		;
	return unused;
}

FRAME static void *wait_for_time(void *unused)
{
	for (;;)
		rest(10);
	return unused;
}

FRAME static void ring_bell(void)
{
	pthread_cond_signal(&bell);
	NOT_A_TAIL_CALL();
}

FRAME static void write_byte(void)
{
	if (write(pipe_ends[1], "", 1) != 1)
		_exit(1);
	NOT_A_TAIL_CALL();
}

FRAME static void send_word(void)
{
	if (send(connection[1], "word", 4, 0) != 4)
		_exit(1);
	NOT_A_TAIL_CALL();
}

static void connect_ends(void)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t size = sizeof address;
	int listener = socket(AF_INET, SOCK_STREAM, 0);
	connection[0] = socket(AF_INET, SOCK_STREAM, 0);
	if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, 1) ||
	    getsockname(listener, (struct sockaddr *)&address, &size) ||
	    connect(connection[0], (struct sockaddr *)&address, size))
		_exit(1);
	connection[1] = accept(listener, 0, 0);
}

static void start(void *(*function)(void *), const char *name)
{
	pthread_attr_t attributes;
	pthread_t thread;
	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, 1 << 16); /* there may be 10,000 */
	if (pthread_create(&thread, &attributes, function, 0))
		_exit(1);
	pthread_setname_np(thread, name);
}

static void wake_all(void)
{
	start(wait_for_bell, "bell");
	start(wait_for_pipe, "pipe");
	start(wait_for_word, "word");
	start(wait_for_time, "time");
	for (;;) {
		rest(5);
		ring_bell();
		write_byte();
		send_word();
		oracle_add(ORACLE_UNITS, 1);
	}
}

int main(int count, char **arguments)
{
	const char *what = count > 1 ? arguments[1] : "";
	int threads = count > 2 ? atoi(arguments[2]) : 0;
	oracle_open();
	disk = open("disk", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (pipe(pipe_ends))
		return 1;
	if (!strcmp(what, "phases")) {
		start(keep_lock, "keeper");
		start(fill_pipe, "filler");
		run_phases();
	}
	for (int i = 0; i < threads; i++)
		start(!strcmp(what, "busy") ? busy : sleeper, what);
	if (!strcmp(what, "passes")) {
		for (int i = 0; i < 8; i++)
			if (pipe(passes[i]))
				return 1;
		for (int i = 0; i < 8; i++)
			start(pass, what);
	}
	if (!strcmp(what, "becomes"))
		start(become, what);
	oracle_add(ORACLE_UNITS, 1);
	if (!strcmp(what, "wakers")) {
		connect_ends();
		wake_all();
	}
	sleeper(0);
}

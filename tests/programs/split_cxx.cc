// Truth: 60 % in Heavy::work, reached by a virtual call and an inlined template under 100 recursions;
// 30 % in compare, called back from libc's qsort, which is called through the PLT;
// 10 % in handle, run in a catch block after an exception crossed 20 frames.
#include "oracle.h"
#include <memory>
#include <stdexcept>

struct Worker {
	virtual ~Worker() = default;
	virtual void work() = 0;
};

struct Heavy : Worker {
	FRAME void work() override { oracle_burn(0, oracle_jitter(12000000)); }
};

template <typename T> inline __attribute__((always_inline)) void inlined_visit(T &worker)
{
	worker.work();
	NOT_A_TAIL_CALL();
}

namespace recursion {
FRAME void descend(int depth, Worker &worker)
{
	if (depth > 1)
		descend(depth - 1, worker);
	else
		inlined_visit(worker);
	NOT_A_TAIL_CALL();
}

FRAME void throw_from(int depth)
{
	std::unique_ptr<int> owned(new int(depth));
	if (depth == 0)
		throw std::runtime_error("thrown on purpose");
	throw_from(depth - 1);
	NOT_A_TAIL_CALL();
}
} // namespace recursion

FRAME int compare(const void *left, const void *right)
{
	oracle_burn(1, oracle_jitter(6000000));
	return *static_cast<const int *>(left) - *static_cast<const int *>(right);
}

FRAME void handle() { oracle_burn(2, oracle_jitter(2000000)); }

int main()
{
	std::unique_ptr<Worker> worker(new Heavy);

	oracle_open();
	for (;;) {
		int pair[2] = {2, 1};
		recursion::descend(100, *worker);
		qsort(pair, 2, sizeof pair[0], compare);
		try {
			recursion::throw_from(20);
		} catch (const std::runtime_error &) {
			handle();
		}
	}
}

/* Truth: a large C++ program. Built from this source once without PART, for main, and once for each PART
 * from 0 on; each part adds STAGES stages, whose containers are types of their own, so that part for part
 * some megabytes of debug information come together. A stage works some 20 us, in functions that no other has
 * and that are mostly inlined into each other, and then calls another one. A unit of work is a chain of LEVELS
 * stages; 320 chains take turns at random and touch nearly all stages of four hundred. Stacks are up to 40 frames
 * deep, 20 on average, not counting inlined calls. */
#include "oracle.h"
#include <algorithm>
#include <array>
#include <functional>
#include <map>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#define LEVELS 10

using Work = uint64_t (*)(uint64_t, int);
std::vector<Work> &stages();

/* The chains begin in 20 stages and fork at four levels. */
static inline uint64_t begin(uint64_t seed) { return stages()[oracle_random(20)](seed, LEVELS - 1); }
static inline uint64_t go_on(int stage, int level, uint64_t seed)
{
	uint64_t next = (uint64_t)(stage * 13 + level * 31) + (level >= LEVELS - 4 ? oracle_random(2) : 0);

	return level ? stages()[next % stages().size()](seed, level - 1) : seed;
}

#ifdef PART
template <int N> struct Key {
	uint64_t value;
	bool operator<(const Key &other) const { return value < other.value; }
	bool operator==(const Key &other) const { return value == other.value; }
};
template <int N> struct Hash {
	size_t operator()(const Key<N> &key) const { return key.value * 0x9e3779b97f4a7c15u; }
};

template <int N> struct Stage {
	std::vector<std::pair<Key<N>, std::string>> rows;
	std::map<Key<N>, std::vector<Key<N>>> index;
	std::unordered_map<Key<N>, std::array<Key<N>, 2>, Hash<N>> cache;

	FRAME void fill(uint64_t seed)
	{
		for (uint64_t i = 0; i < 60; i++) {
			seed = seed * 6364136223846793005u + 1442695040888963407u;
			rows.emplace_back(Key<N>{seed >> 52}, std::string(1 + seed % 20, 'x'));
		}
	}
	FRAME void sort()
	{
		std::sort(rows.begin(), rows.end(), [](auto &one, auto &other) {
			return one.first < other.first || (one.first == other.first && one.second < other.second);
		});
	}
	FRAME void group()
	{
		for (auto &row : rows) {
			index[row.first].push_back(Key<N>{row.second.size()});
			cache.try_emplace(row.first, std::array<Key<N>, 2>{row.first, Key<N>{N}});
		}
	}
	FRAME uint64_t sum(const std::function<uint64_t(Key<N>)> &next) const
	{
		uint64_t all = 0;

		for (auto &[key, group] : index)
			for (auto &size : group)
				all += size.value + cache.at(key)[0].value;
		return all + next(Key<N>{all});
	}
};

template <int N> FRAME uint64_t run(uint64_t seed, int level)
{
	Stage<N> stage;

	stage.fill(seed);
	stage.sort();
	stage.group();
	return stage.sum([level](Key<N> key) { return go_on(N, level, key.value); });
}

template <int... I> static bool add(std::integer_sequence<int, I...>)
{
	(stages().push_back(run<PART * STAGES + I>), ...);
	return true;
}
static const bool added = add(std::make_integer_sequence<int, STAGES>());

#else
std::vector<Work> &stages()
{
	static std::vector<Work> all;
	return all;
}

int main()
{
	uint64_t all = 0;

	oracle_open();
	for (;;) {
		all += begin(all);
		oracle_add(ORACLE_UNITS, 1);
	}
}
#endif

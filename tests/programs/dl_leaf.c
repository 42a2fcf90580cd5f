/* Truth: the library that dl_swap opens; its only function is LEAF (leaf_a or leaf_b). */
#include "oracle.h"

FRAME void LEAF(uint64_t *account, int slot, uint64_t quota_ns)
{
	oracle_account = account;
	oracle_burn(slot, quota_ns);
}

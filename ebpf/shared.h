/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only
 *
 * Everything that crosses between the kernel side and userland. Fixed-width
 * fields, widest first, padding explicit, sizes asserted here and, from the
 * other side, in src/sys/abi.rs.
 */
#ifndef TXPROF_SHARED_H
#define TXPROF_SHARED_H

/* ---- unwind tables -------------------------------------------------------
 *
 * A pc becomes a rule in three steps:
 *
 *   mapping  (binary search in the process's slice of `mappings`)
 *   page     pages[first_page + (svma >> 16) - page_base]: 64 KiB of code
 *   row      binary search in rows[first_row .. first_row + row_count):
 *            the last row whose `offset` is at most svma & 0xffff
 *
 * The first row of a page has offset 0: a row that begins in an earlier page
 * is repeated. A range no unwind information covers has a row with RULE_NONE.
 */

#define PAGE_SHIFT_SVMA 16

/* One row in 4 bytes: offset in its page in the low half, index into `rules` in the high half. */
typedef __u32 row_t;
#define ROW_OFFSET(row) ((row) & 0xffff)
#define ROW_RULE(row) ((row) >> 16)

enum rule_kind {
	RULE_NONE = 0,        /* no unwind information here: try the frame pointer */
	RULE_END = 1,         /* the thread's first function: nothing called it */
	RULE_SIGNAL = 2,      /* sigreturn trampoline: struct ucontext is at rsp */
	RULE_UNSUPPORTED = 3, /* there is information that a rule cannot hold */
	RULE_PLT = 4,         /* CFA = rsp + 8 + ((pc & 15) >= cfa_offset ? 8 : 0) */
	RULE_CFA_DEREF_RSP = 5, /* CFA = *(rsp + low16(cfa_offset)) + high16(cfa_offset) */
	RULE_CFA_DEREF_RBP = 6, /* CFA = *(rbp + low16) + high16; slots count from rbp, rbp is always saved */
	/* CFA = register + cfa_offset; RULE_CFA_REGISTER + DWARF register number (0..15).
	 * rsp = 7, rbp = 6, rbx = 3 are carried through the walk, the others are
	 * known only in the interrupted frame and behind a signal frame. */
	RULE_CFA_REGISTER = 16,
};

/* Slots: the caller's register is at CFA + 8 * slot. */
#define SLOT_SAME 0        /* not saved: the caller's value is the current one */
#define SLOT_RBX_LOST (-128)
#define SLOT_RBP_LOST (-32768)

/* How to get from a frame to its caller. The return address is at CFA - 8
 * and the caller's rsp is the CFA, in every kind that has a CFA. */
struct rule {
	__s32 cfa_offset;
	__s16 rbp_slot;
	__s8 rbx_slot;
	__u8 kind; /* enum rule_kind */
};
_Static_assert(sizeof(struct rule) == 8, "struct rule");

#endif

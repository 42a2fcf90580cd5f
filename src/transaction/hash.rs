//! One hash for names and shares of requests, written out so that it is the same in each version
//! and on each machine. It resists nobody who chooses what is hashed.

/// FNV-1a, 64 bits: offset basis and prime of draft-eastlake-fnv, section 5.
const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

/// Divides the parts, so that `ab`, `c` is not `a`, `bc`; no UTF-8 has this byte.
const DIVIDER: u8 = 0xff;

/// The hash of `parts` in their order: FNV-1a, then the finalizer of MurmurHash3 (`fmix64`), without
/// which the high bits of short texts are nearly alike.
pub(super) fn hash_of(parts: &[&str]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([DIVIDER]));
    let mut hash = bytes.fold(OFFSET_BASIS, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME));
    for factor in [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53] {
        hash = (hash ^ (hash >> 33)).wrapping_mul(factor);
    }
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known values hold the hash still, and where parts end matters.
    #[test]
    fn hash_is_the_same_everywhere() {
        assert_eq!(hash_of(&[]), 0xefd0_1f60_ba99_2926);
        assert_ne!(hash_of(&["ab", "c"]), hash_of(&["a", "bc"]));
        assert_ne!(hash_of(&["a"]), hash_of(&["a", ""]));
    }
}

//! Names that people remember: `angry_einstein` instead of 32 hexadecimal digits.

use super::hash::hash_of;
use super::words::{ADJECTIVES, SCIENTISTS};

/// `adjective_scientist` for a request's `id`: small letters of ASCII and one underscore, at most 24
/// bytes. The same ID gets the same name on each machine. There are more than 100,000 names, so
/// that among 400 requests two share one as likely as not: see [`with_suffix`].
pub fn name_of(id: &str) -> String {
    let hash = hash_of(&[id]);
    let (high, low) = ((hash >> 32) as usize, (hash & u64::from(u32::MAX)) as usize);
    let adjective = ADJECTIVES[high % ADJECTIVES.len()];
    let scientist = SCIENTISTS[low % SCIENTISTS.len()];
    format!("{adjective}_{scientist}")
}

/// The name for the `attempt`th request that would be called `name`: the first (and 0) is called
/// just that, then come `angry_einstein_2`, `angry_einstein_3`, …
pub fn with_suffix(name: &str, attempt: u32) -> String {
    if attempt < 2 { name.to_owned() } else { format!("{name}_{attempt}") }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The lists are as long as promised, each word is plain and stands once.
    #[test]
    fn words_are_plain_and_stand_once() {
        assert!(ADJECTIVES.len() >= 200 && SCIENTISTS.len() >= 250);
        for words in [&ADJECTIVES[..], &SCIENTISTS[..]] {
            assert!(words.is_sorted_by(|one, next| one < next));
            assert!(words.iter().all(|word| word.bytes().all(|byte| byte.is_ascii_lowercase())));
            assert!(words.iter().all(|word| (2..=13).contains(&word.len())));
        }
        assert!(ADJECTIVES.iter().all(|word| word.len() <= 10));
        assert!(ADJECTIVES.len() * SCIENTISTS.len() > 100_000);
        assert!(ADJECTIVES.contains(&"angry") && SCIENTISTS.contains(&"einstein"));
    }

    /// A known ID has a known name, whatever machine this is.
    #[test]
    fn name_is_the_same_everywhere() {
        assert_eq!(name_of("4bf92f3577b34da6a3ce929d0e0e4736"), "studious_herschel");
        assert_eq!(name_of(""), "icy_mendel");
    }

    /// Of 1,000 IDs that differ in their last digits, nearly all have names of their own (of 120,000
    /// names, 4 pairs that meet are expected), and nearly all adjectives come up.
    #[test]
    fn names_of_neighbours_are_spread() {
        let names: BTreeSet<String> = (0..1000).map(|number| name_of(&format!("req-{number}"))).collect();
        assert!(names.len() >= 985, "{}", names.len());
        let adjectives: BTreeSet<&str> = names.iter().filter_map(|name| name.split('_').next()).collect();
        assert!(adjectives.len() > ADJECTIVES.len() * 9 / 10, "{}", adjectives.len());
    }

    /// The first keeps the bare name.
    #[test]
    fn suffix_counts_from_the_second() {
        assert_eq!(with_suffix("angry_einstein", 0), "angry_einstein");
        assert_eq!(with_suffix("angry_einstein", 1), "angry_einstein");
        assert_eq!(with_suffix("angry_einstein", 2), "angry_einstein_2");
    }
}

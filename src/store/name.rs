//! Names of requests: a base and a number, `angry_einstein` (1), `angry_einstein_2` (2), …
//! Each name has one base and number, and each base and number one name.

/// The base of `name` and its number: what follows the last `_`, if that is a number from 2 on, written plainly;
/// else all of it is the base, and the number 1.
pub fn parse(name: &str) -> (&str, u32) {
    let numbered = || {
        let (base, digits) = name.rsplit_once('_')?;
        let is_plain = !digits.starts_with(['0', '+']) && !base.is_empty();
        let number = digits.parse().ok().filter(|number| *number >= 2 && is_plain)?;
        Some((base, number))
    };
    numbered().unwrap_or((name, 1))
}

/// The name of `base` and `number`.
pub fn join(base: &str, number: u32) -> String {
    if number <= 1 { base.to_owned() } else { format!("{base}_{number}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name is its base and number, and only a plain number from 2 on is one.
    #[test]
    fn names_are_base_and_number() {
        for (name, expected) in [
            ("angry_einstein", ("angry_einstein", 1)),
            ("angry_einstein_2", ("angry_einstein", 2)),
            ("angry_einstein_1", ("angry_einstein_1", 1)),
            ("angry_einstein_02", ("angry_einstein_02", 1)),
            ("angry_einstein_99999999999", ("angry_einstein_99999999999", 1)),
            ("_2", ("_2", 1)),
            ("a_+2", ("a_+2", 1)),
            ("", ("", 1)),
        ] {
            let (base, number) = parse(name);
            assert_eq!((base, number), expected);
            assert_eq!(join(base, number), name);
        }
    }
}

//! Which names somebody may have meant.

/// How many names are proposed.
const MAX_PROPOSALS: usize = 3;

/// Bytes of a name that are compared, so that one comparison is at most 4,096 steps; a
/// `comm` has at most 15.
const MAX_COMPARED_BYTES: usize = 64;

/// Those of `names` that are most like `wanted`, best first, each once, at most three:
/// names that contain it or are contained in it, or that differ in at most a third of its bytes.
pub(super) fn closest_names(wanted: &str, names: impl Iterator<Item = String>) -> Vec<String> {
    let wanted = wanted.to_lowercase();
    let mut close: Vec<(usize, String)> = names
        .filter_map(|name| {
            let lower = name.to_lowercase();
            let is_part =
                !lower.is_empty() && (lower.contains(&wanted) || lower.len() > 2 && wanted.contains(&lower));
            let distance = if is_part { 0 } else { edit_distance(wanted.as_bytes(), lower.as_bytes()) };
            (distance <= wanted.len() / 3).then_some((distance, name))
        })
        .collect();
    close.sort();
    close.dedup();
    close.truncate(MAX_PROPOSALS);
    close.into_iter().map(|(_, name)| name).collect()
}

/// The least number of bytes to insert, remove or replace (Levenshtein), row by row:
/// `d(i, j) = min(d(i-1, j) + 1, d(i, j-1) + 1, d(i-1, j-1) + (aᵢ ≠ bⱼ))`.
fn edit_distance(a: &[u8], b: &[u8]) -> usize {
    let b = b.get(..MAX_COMPARED_BYTES).unwrap_or(b);
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.iter().take(MAX_COMPARED_BYTES).enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (b, above) in b.iter().zip(row.iter_mut().skip(1)) {
            let here = (left + 1).min(*above + 1).min(diagonal + usize::from(a != b));
            diagonal = std::mem::replace(above, here);
            left = here;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A slip of the finger and a part of a name are understood, a far name is not proposed.
    #[test]
    fn slips_and_parts_are_understood() {
        let names = || ["postgres", "nginx", "node", "postgres", "python3.11"].map(str::to_owned).into_iter();
        assert_eq!(closest_names("postgers", names()), ["postgres"]);
        assert_eq!(closest_names("python", names()), ["python3.11"]);
        assert_eq!(closest_names("NGINX", names()), ["nginx"]);
        assert!(closest_names("java", names()).is_empty());
        assert_eq!(edit_distance(b"kitten", b"sitting"), 3);
        assert_eq!(edit_distance(b"", b"abc"), 3);
    }
}

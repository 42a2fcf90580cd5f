//! Divides a sum in proportion to weights, to the last nanosecond.

/// `wanted` divided among `weights`, in their order: each gets the rounded running total less what was given before, so
/// that the shares add up to `wanted`. None where no weight is above 0.
pub(super) fn shares(weights: &[u64], wanted: u64) -> Option<Vec<u64>> {
    let total: u128 = weights.iter().map(|weight| u128::from(*weight)).sum();
    let (mut seen, mut given) = (0, 0);
    let share = |weight: &u64| {
        seen += u128::from(*weight);
        // At most `wanted`, as `seen` is at most `total`.
        let due = u64::try_from(seen * u128::from(wanted) / total).unwrap_or(wanted) - given;
        given += due;
        due
    };
    (total > 0).then(|| weights.iter().map(share).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shares are proportional and add up, also where they do not divide evenly or are huge.
    #[test]
    fn shares_add_up() {
        assert_eq!(shares(&[10, 10, 10], 100), Some(vec![33, 33, 34]));
        assert_eq!(shares(&[0, 5], 7), Some(vec![0, 7]));
        assert_eq!(shares(&[1, u64::MAX], u64::MAX), Some(vec![0, u64::MAX]));
        assert_eq!(shares(&[0, 0], 7), None);
        assert_eq!(shares(&[], 0), None);
    }
}

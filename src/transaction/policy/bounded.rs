//! Numbers and times of a policy that cannot make no sense: read as what they are, or refused.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use crate::model::quantity::{parse_time, time_text};

/// Longest window of a `top_k` policy: a day.
const MAX_WINDOW: Duration = Duration::from_secs(24 * 3600);

/// A whole number from `MIN` to `MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(super) struct Bounded<const MIN: u64, const MAX: u64>(u64);

impl<const MIN: u64, const MAX: u64> Bounded<MIN, MAX> {
    /// The number.
    pub(super) fn get(self) -> u64 {
        self.0
    }
}

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for Bounded<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = i64::deserialize(deserializer)?;
        let inside = u64::try_from(number).ok().filter(|number| (MIN..=MAX).contains(number));
        inside.map(Self).ok_or_else(|| {
            Error::custom(format!("{number} is out of range; write a whole number from {MIN} to {MAX}"))
        })
    }
}

/// A share in percent, from 0 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub(super) struct Percentage(f64);

impl Percentage {
    /// Whether `hash`, evenly spread, falls into the share.
    pub(super) fn takes(self, hash: u64) -> bool {
        // 53 bits are all that a double tells apart; 2^53 itself is never reached, so that 100 takes all.
        let place = (hash >> 11) as f64 / (1_u64 << 53) as f64;
        place * 100.0 < self.0
    }
}

impl<'de> Deserialize<'de> for Percentage {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let percent = f64::deserialize(deserializer)?;
        if (0.0..=100.0).contains(&percent) {
            Ok(Self(percent))
        } else {
            Err(Error::custom(format!("{percent} is not a percentage; write a number from 0 to 100")))
        }
    }
}

/// The window of time of a `top_k` policy, written `60s`: from 1 ms to a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window(Duration);

impl Window {
    /// Its length in nanoseconds; never 0.
    pub(super) fn ns(self) -> u64 {
        u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX).max(1)
    }
}

impl<'de> Deserialize<'de> for Window {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let time = parse_time(&text).map_err(Error::custom)?;
        if time > MAX_WINDOW {
            return Err(Error::custom(format!("a window of `{text}` is too long; write at most 24h")));
        }
        Ok(Self(time))
    }
}

impl Serialize for Window {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&time_text(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shares take what they say of evenly spread hashes, and the ends are exact.
    #[test]
    fn shares_are_exact_at_their_ends() {
        assert!([0, 1, u64::MAX].iter().all(|hash| Percentage(100.0).takes(*hash)));
        assert!([0, 1, u64::MAX].iter().all(|hash| !Percentage(0.0).takes(*hash)));
        assert_eq!((0..1024).filter(|number| Percentage(12.5).takes(number << 54)).count(), 128);
    }
}

//! Quantities as people read them: the same words in pictures and reports.

use std::time::Duration;

use crate::model::Profile;

/// `2,970`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut result = String::with_capacity(digits.len() * 4 / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            result.push(',');
        }
        result.push(digit);
    }
    result
}

/// `1 sample`, `2,970 samples`.
pub fn counted(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(number), if number == 1 { "" } else { "s" })
}

/// `2,970 samples`; where waits were counted, `988 samples and 5,310 waits (125 with a stack)`.
pub fn seen(profile: &Profile) -> String {
    match profile.wait_counts() {
        Some((waits, stacks)) => {
            let samples = counted(profile.running_count(), "sample");
            format!("{samples} and {} ({} with a stack)", counted(waits, "wait"), count(stacks))
        }
        None => counted(profile.sample_count(), "sample"),
    }
}

/// `part` of `whole` in percent: `99.6 %`. Shows `100 %` and `0 %` only when
/// they are exact, so that a small loss never rounds away; `0 %` of nothing.
pub fn percent(part: u64, whole: u64) -> String {
    if part == 0 || whole == 0 {
        return "0 %".to_owned();
    }
    if part >= whole {
        return "100 %".to_owned();
    }
    let share = part as f64 * 100.0 / whole as f64;
    let decimals = if (1.0..=99.0).contains(&share) { 1 } else { 2 };
    format!("{:.decimals$} %", share.clamp(0.01, 99.99))
}

/// `512 B`, `31.4 KiB`, `12 MiB`.
pub fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.5 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    let decimals = usize::from(value < 99.95);
    format!("{value:.decimals$} {}", units[unit])
}

/// `30.0 s`, `2 min 05 s`, `1 h 02 min`; below a second `250 ms`. The nearest of up to a minute, else what is over.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    let millis = time.saturating_add(Duration::from_micros(500)).as_millis();
    let tenths = time.saturating_add(Duration::from_millis(50)).as_millis() / 100;
    match seconds {
        _ if millis < 1000 => format!("{millis} ms"),
        0..60 if tenths < 600 => format!("{}.{} s", tenths / 10, tenths % 10),
        0..60 => "1 min 00 s".to_owned(),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Thousands are grouped and one is singular.
    #[test]
    fn counts_are_grouped() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(counted(1, "sample"), "1 sample");
        assert_eq!(counted(2000, "sample"), "2,000 samples");
    }

    /// One lost sample in a million still shows.
    #[test]
    fn small_shares_do_not_round_away() {
        assert_eq!(percent(0, 0), "0 %");
        assert_eq!(percent(1_000_000, 1_000_000), "100 %");
        assert_eq!(percent(999_999, 1_000_000), "99.99 %");
        assert_eq!(percent(1, 1_000_000), "0.01 %");
        assert_eq!(percent(1, 3), "33.3 %");
        assert_eq!(percent(u64::MAX, 1), "100 %");
    }

    /// Sizes and times change unit where the number would get long.
    #[test]
    fn units_follow_the_magnitude() {
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(32_154), "31.4 KiB");
        assert_eq!(size(1024 * 1024 - 1), "1.0 MiB");
        assert_eq!(size(12 << 20), "12.0 MiB");
        assert_eq!(size(214 << 10), "214 KiB");
        assert_eq!(duration(Duration::from_millis(250)), "250 ms");
        assert_eq!(duration(Duration::from_micros(825_501)), "826 ms");
        assert_eq!(duration(Duration::from_micros(999_501)), "1.0 s");
        assert_eq!(duration(Duration::from_millis(1_380)), "1.4 s");
        assert_eq!(duration(Duration::from_millis(30_049)), "30.0 s");
        assert_eq!(duration(Duration::from_millis(59_950)), "1 min 00 s");
        assert_eq!(duration(Duration::MAX).split(' ').next_back(), Some("min"));
        assert_eq!(duration(Duration::from_secs(125)), "2 min 05 s");
        assert_eq!(duration(Duration::from_secs(3725)), "1 h 02 min");
        assert!(size(u64::MAX).ends_with("TiB"));
    }
}

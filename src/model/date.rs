//! Wall-clock times as people write them, in UTC.

/// `2026-11-23 12:59:08 UTC`.
pub fn utc(unix_seconds: u64) -> String {
    let Civil { year, month, day, hour, minute, second } = civil(unix_seconds);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// `2026-11-23T12:59:08Z` (RFC 3339), as machines read it.
pub fn rfc3339(unix_seconds: u64) -> String {
    let Civil { year, month, day, hour, minute, second } = civil(unix_seconds);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// `20261123T125908Z`: sorts by time and fits in a file name.
pub fn compact_utc(unix_seconds: u64) -> String {
    let Civil { year, month, day, hour, minute, second } = civil(unix_seconds);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

/// `2026-11-23`: days sort as their texts do, up to the year 9999.
pub fn day(unix_seconds: u64) -> String {
    let Civil { year, month, day, .. } = civil(unix_seconds);
    format!("{year:04}-{month:02}-{day:02}")
}

struct Civil {
    year: u64,
    month: u64,
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
}

const DAYS_OF_400_YEARS: u64 = 400 * 365 + 97;

/// The proleptic Gregorian calendar. Years are counted from the first of March,
/// so that the leap day is a year's last and months follow one formula; day 0
/// is 0000-03-01, which lies 719,468 days before 1970-01-01.
fn civil(unix_seconds: u64) -> Civil {
    let days = unix_seconds / 86_400 + 719_468;
    let seconds = unix_seconds % 86_400;
    let day_of_era = days % DAYS_OF_400_YEARS;
    // Leap days before this one: every 4 years (1,461 days), not every 100 (36,525 − 1), but every 400.
    let leap_days = day_of_era / 1_460 - day_of_era / 36_524 + day_of_era / (DAYS_OF_400_YEARS - 1);
    let year_of_era = (day_of_era - leap_days) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Five months from March have 153 days: 31 30 31 30 31.
    let month_from_march = (5 * day_of_year + 2) / 153;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    Civil {
        year: days / DAYS_OF_400_YEARS * 400 + year_of_era + u64::from(month <= 2),
        month,
        day: day_of_year - (153 * month_from_march + 2) / 5 + 1,
        hour: seconds / 3600,
        minute: seconds / 60 % 60,
        second: seconds % 60,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known instants, among them leap days and the ends of years; expected values from `date -u -d @N`.
    #[test]
    fn known_instants_are_written_as_date_writes_them() {
        assert_eq!(utc(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(utc(951_782_400), "2000-02-29 00:00:00 UTC");
        assert_eq!(utc(1_709_164_800), "2024-02-29 00:00:00 UTC");
        assert_eq!(utc(1_735_689_599), "2024-12-31 23:59:59 UTC");
        assert_eq!(utc(4_107_542_400), "2100-03-01 00:00:00 UTC");
        assert_eq!(compact_utc(1_795_438_748), "20261123T125908Z");
        assert_eq!(rfc3339(1_795_438_748), "2026-11-23T12:59:08Z");
        assert_eq!(day(1_735_689_599), "2024-12-31");
    }

    /// Even the last representable second has a date.
    #[test]
    fn largest_instant_does_not_overflow() {
        assert!(utc(u64::MAX).ends_with("UTC"));
    }
}

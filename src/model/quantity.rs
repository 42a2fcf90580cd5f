//! Lengths of time and amounts of bytes as people write them in settings: `50ms`, `7d`, `64MiB`.

use std::time::Duration;

/// Longest time that is understood: ten years, far beyond any use and far from overflow.
const MAX_TIME: Duration = Duration::from_secs(3650 * 24 * 3600);

/// Most bytes that are understood: 1 PiB.
const MAX_BYTES: u64 = 1 << 50;

/// Longest text that is looked at, in bytes.
const MAX_TEXT_BYTES: usize = 32;

/// Parses `50ms`, `60s`, `1m30s`, `2h` or `7d`: whole numbers, each with its unit (`ms`, `s`, `m` or
/// `min`, `h`, `d`), which are added up. From 1 ms to ten years; anything else gets a sentence that
/// tells what may be written.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    let usage = || format!("`{}` is not a length of time; write 50ms, 60s, 2h or 7d", shown(text));
    let mut rest = if text.len() > MAX_TEXT_BYTES { "" } else { text };
    let mut total_ms = 0_u64;
    while !rest.is_empty() {
        let (number, unit, tail) = number_and_unit(rest).ok_or_else(usage)?;
        let unit_ms = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(usage()),
        };
        total_ms = total_ms.saturating_add(number.saturating_mul(unit_ms));
        rest = tail;
    }
    let time = Duration::from_millis(total_ms);
    if time.is_zero() {
        return Err(usage());
    }
    if time > MAX_TIME { Err(format!("`{text}` is too long; write at most 3650d")) } else { Ok(time) }
}

/// Parses `512`, `64KiB`, `64MiB`, `2GiB` or `1TiB`, and `kB`, `MB`, `GB`, `TB` by thousands: a whole
/// number of bytes from 1 to 1 PiB. Anything else gets a sentence that tells what may be written.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let usage = || format!("`{}` is not an amount of bytes; write 512KiB, 64MiB or 2GiB", shown(text));
    let (number, unit, tail) = number_and_unit(text).ok_or_else(usage)?;
    let unit_bytes = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        "kB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return Err(usage()),
    };
    let bytes = number.saturating_mul(unit_bytes);
    if bytes == 0 || !tail.is_empty() {
        return Err(usage());
    }
    if bytes > MAX_BYTES { Err(format!("`{text}` is too much; write at most 1024TiB")) } else { Ok(bytes) }
}

/// `time` so that [`parse_time`] reads the same from it, in the largest unit that divides it; what is
/// less than a millisecond is left out.
pub fn time_text(time: Duration) -> String {
    let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let units = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)];
    let unit = units.into_iter().find(|(_, unit_ms)| ms.is_multiple_of(*unit_ms));
    let (unit, unit_ms) = unit.unwrap_or(("ms", 1));
    format!("{}{unit}", ms / unit_ms)
}

/// The number at the beginning of `text`, the unit behind it (may be empty), and what follows; `None`
/// without a number. A number too large for 64 bits is the largest.
fn number_and_unit(text: &str) -> Option<(u64, &str, &str)> {
    let (digits, rest) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let (unit, tail) = rest.split_at(rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len()));
    (!digits.is_empty()).then(|| (digits.parse().unwrap_or(u64::MAX), unit, tail))
}

/// The beginning of `text`, for a sentence.
fn shown(text: &str) -> String {
    text.chars().take(MAX_TEXT_BYTES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each unit is understood, and sums of them.
    #[test]
    fn times_are_understood() {
        let ms = |text| parse_time(text).map(|time| time.as_millis());
        assert_eq!(ms("50ms"), Ok(50));
        assert_eq!(ms("1m30s"), Ok(90_000));
        assert_eq!(ms("90min"), Ok(5_400_000));
        assert_eq!(ms("7d"), Ok(604_800_000));
        for wrong in
            ["", "0s", "60", "s", "-1s", "1.5h", "1 s", "1s ", "1fortnight", "ä", "1sä", "99999999999d"]
        {
            let error = parse_time(wrong).expect_err(wrong);
            assert!(error.contains("; write "), "{error}");
        }
        assert!(parse_time(&"1s".repeat(100_000)).is_err_and(|error| error.len() < 150));
    }

    /// What is written is read back.
    #[test]
    fn times_are_written_as_they_are_read() {
        for (text, again) in
            [("60s", "1m"), ("50ms", "50ms"), ("1500ms", "1500ms"), ("90s", "90s"), ("48h", "2d")]
        {
            assert_eq!(parse_time(text).map(time_text).as_deref(), Ok(again));
        }
    }

    /// Binary and decimal units differ.
    #[test]
    fn bytes_are_understood() {
        assert_eq!(parse_bytes("64MiB"), Ok(64 << 20));
        assert_eq!(parse_bytes("2GB"), Ok(2_000_000_000));
        assert_eq!(parse_bytes("512"), Ok(512));
        for wrong in ["", "0", "MiB", "1.5GiB", "64 MiB", "1MiB1", "-1", "64mib", "18446744073709551616TiB"] {
            let error = parse_bytes(wrong).expect_err(wrong);
            assert!(error.contains("; write "), "{error}");
        }
    }
}

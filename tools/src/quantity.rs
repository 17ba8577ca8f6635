//! Sizes and durations: as they are typed, and as they are shown.
//!
//! Sizes are binary throughout: `K` and `KiB` are 1024 bytes. `KB`, which means 1000 to some, is
//! refused instead of guessed.

use std::time::Duration;

const UNITS: [(&str, u32); 6] = [
    ("KiB", 10),
    ("MiB", 20),
    ("GiB", 30),
    ("TiB", 40),
    ("PiB", 50),
    ("EiB", 60),
];

/// A size such as `8GiB`, `10G`, `64KiB`, `1.5TiB` or `4096`, in bytes.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let (number, suffix) = split_number(text);
    let help = "write a number with B, KiB, MiB, GiB, TiB or K, M, G, T (all binary), such as 8GiB";
    if number.is_empty() {
        return Err(format!("{text:?} is no size; {help}"));
    }
    let shift = if suffix.is_empty() || suffix.eq_ignore_ascii_case("b") {
        0
    } else {
        let unit = UNITS.iter().find(|(name, _)| {
            name.eq_ignore_ascii_case(suffix)
                || name
                    .get(..1)
                    .is_some_and(|s| s.eq_ignore_ascii_case(suffix))
        });
        match unit {
            Some((_, shift)) => *shift,
            None if suffix.len() == 2 && suffix.to_ascii_lowercase().ends_with('b') => {
                let letter = suffix.get(..1).unwrap_or_default().to_ascii_uppercase();
                return Err(format!(
                    "{text:?} is ambiguous (1000 or 1024?); write {number}{letter}iB"
                ));
            }
            None => return Err(format!("{text:?} has the unknown unit {suffix:?}; {help}")),
        }
    };
    scaled(number, 1_u128 << shift)
        .ok_or_else(|| format!("{text:?} is no whole number of bytes below 16 EiB; {help}"))
}

/// A duration such as `60s`, `5m`, `1.5h`, `500ms`, or a bare number of seconds.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, suffix) = split_number(text);
    let help = "write a number with ms, s, m, h or d, such as 60s";
    let unit_ms = match suffix {
        "ms" => 1,
        "" | "s" => 1000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(format!("{text:?} has the unknown unit {suffix:?}; {help}")),
    };
    scaled(number, unit_ms)
        .map(Duration::from_millis)
        .ok_or_else(|| format!("{text:?} is no duration; {help}"))
}

fn split_number(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    (number, suffix.trim_start())
}

/// `number` (digits with at most one point) times `unit`, if that is a whole number.
fn scaled(number: &str, unit: u128) -> Option<u64> {
    /// More digits after the point than any size needs; keeps the arithmetic within 128 bits.
    const FRACTION_DIGITS_MAX: usize = 18;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || (number.contains('.') && !digits(fraction)) {
        return None;
    }
    let whole: u64 = whole.parse().ok()?;
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > FRACTION_DIGITS_MAX {
        return None;
    }
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let part: u128 = if fraction.is_empty() {
        0
    } else {
        fraction.parse().ok()?
    };
    // part < 10^18 < 2^60 and unit <= 2^60: no overflow below.
    let part = part * unit;
    if !part.is_multiple_of(scale) {
        return None;
    }
    u64::try_from(u128::from(whole) * unit + part / scale).ok()
}

/// Bytes for a person: `0 B`, `512 B`, `64 KiB`, `1.9 TiB`.
///
/// Rounded down, to a tenth below a thousand, so that a volume never looks larger than it is.
pub(crate) fn show_size(bytes: u64) -> String {
    let unit = UNITS
        .iter()
        .rev()
        .find(|(_, shift)| bytes >> shift > 0)
        .copied();
    let Some((name, shift)) = unit else {
        return format!("{bytes} B");
    };
    let tenths = (u128::from(bytes) * 10) >> shift;
    if tenths.is_multiple_of(10) || tenths >= 10_000 {
        format!("{} {name}", tenths / 10)
    } else {
        format!("{}.{} {name}", tenths / 10, tenths % 10)
    }
}

/// A moment for a person, in local time.
pub(crate) fn show_moment(unix_ms: u64) -> String {
    let at = i64::try_from(unix_ms)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    match at {
        Some(at) => at
            .to_zoned(jiff::tz::TimeZone::system())
            .strftime("%Y-%m-%d %H:%M:%S")
            .to_string(),
        None => unix_ms.to_string(),
    }
}

/// Seconds for a person: `0 s`, `42 s`, `3 min 5 s`, `2 h 4 min`, `5 d 3 h`.
pub(crate) fn show_seconds(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    let two = |a: u64, a_unit: &str, b: u64, b_unit: &str| {
        if b == 0 {
            format!("{a} {a_unit}")
        } else {
            format!("{a} {a_unit} {b} {b_unit}")
        }
    };
    if days > 0 {
        two(days, "d", hours % 24, "h")
    } else if hours > 0 {
        two(hours, "h", minutes % 60, "min")
    } else if minutes > 0 {
        two(minutes, "min", seconds % 60, "s")
    } else {
        format!("{seconds} s")
    }
}

/// How much of `total` is done, in whole percent, rounded down; all of nothing is 100.
pub(crate) fn percent(done: u64, total: u64) -> u64 {
    let done = u128::from(done.min(total)) * 100;
    done.checked_div(u128::from(total))
        .map_or(100, |value| u64::try_from(value).unwrap_or(100))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_binary_with_or_without_the_i() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("512B", 512),
            ("64KiB", 65536),
            ("64k", 65536),
            ("10G", 10 << 30),
            ("8GiB", 8 << 30),
            ("8 GiB", 8 << 30),
            ("1.5TiB", 3 << 39),
            ("0.5KiB", 512),
            ("15EiB", 15 << 60),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn a_size_that_could_mean_two_things_or_none_is_refused() {
        assert!(parse_size("8GB").unwrap_err().contains("write 8GiB"));
        for text in [
            "",
            "GiB",
            "-1G",
            "1..5G",
            ".5G",
            "1.",
            "8X",
            "8GiBs",
            "0.0001K",
            "16EiB",
            "1e9",
            "99999999999999999999",
        ] {
            assert!(parse_size(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn durations_have_units_and_default_to_seconds() {
        for (text, ms) in [
            ("60s", 60_000),
            ("5m", 300_000),
            ("500ms", 500),
            ("90", 90_000),
            ("1.5h", 5_400_000),
            ("1d", 86_400_000),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(ms)),
                "{text}"
            );
        }
        for text in ["", "s", "-1s", "5 parsecs", "0.0001ms"] {
            assert!(parse_duration(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn sizes_are_shown_short_and_never_too_large() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 30) - 1, "1023 MiB"),
            (8 << 30, "8 GiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(show_size(bytes), text);
        }
    }

    #[test]
    fn seconds_are_shown_in_two_units_at_most() {
        for (seconds, text) in [
            (0, "0 s"),
            (59, "59 s"),
            (185, "3 min 5 s"),
            (3600, "1 h"),
            (7440, "2 h 4 min"),
            (90_000, "1 d 1 h"),
        ] {
            assert_eq!(show_seconds(seconds), text);
        }
    }

    #[test]
    fn all_of_nothing_is_everything() {
        assert_eq!(percent(0, 0), 100);
        assert_eq!(percent(199, 200), 99);
        assert_eq!(percent(u64::MAX, u64::MAX), 100);
        assert_eq!(percent(5, 4), 100);
    }
}

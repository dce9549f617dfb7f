//! Durations and sizes as people write and read them.

use std::time::Duration;

/// Placeholder for a number that is not there.
pub(super) const ABSENT: &str = "–";

/// Seconds as `0.4 s`, `14.2 s`, `3 min 12 s` or `2 h 05 min`.
pub(super) fn seconds(value: f64) -> String {
    if !value.is_finite() || value < 0.0 {
        return ABSENT.to_owned();
    }
    if value < 59.95 {
        return format!("{value:.1} s");
    }
    let whole = Duration::from_secs_f64(value.min(1e9).round()).as_secs();
    if whole < 3600 {
        format!("{} min {:02} s", whole / 60, whole % 60)
    } else {
        format!("{} h {:02} min", whole / 3600, whole % 3600 / 60)
    }
}

/// Seconds where they are known.
pub(super) fn maybe_seconds(value: Option<f64>) -> String {
    value.map_or_else(|| ABSENT.to_owned(), seconds)
}

/// Bytes as `812 B` or `90.9 MB`, in powers of 1000.
pub(super) fn bytes(value: u64) -> String {
    let steps = ["kB", "MB", "GB", "TB"];
    let (mut scaled, mut unit) = (value as f64, "B");
    for step in steps {
        if scaled < 999.5 {
            break;
        }
        (scaled, unit) = (scaled / 1000.0, step);
    }
    if unit == "B" { format!("{value} B") } else { format!("{scaled:.1} {unit}") }
}

/// Reads `45s`, `30m`, `12h` or `30d`.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let factor = |unit: &str| match unit {
        "s" => Some(1),
        "m" => Some(60),
        "h" => Some(3600),
        "d" => Some(86_400),
        _ => None,
    };
    let seconds = parse(text, factor);
    seconds
        .map(Duration::from_secs)
        .ok_or_else(|| "expected for instance `12h` or `30d`".to_owned())
}

/// Reads `800MB`, `20GB`, with `k`, `M`, `G`, `T` as powers of 1000, `KiB`, … of 1024.
pub(super) fn parse_bytes(text: &str) -> Result<u64, String> {
    let factor = |unit: &str| {
        let unit = unit.trim().to_ascii_lowercase();
        let (prefix, base) = match unit.strip_suffix("ib") {
            Some(prefix) => (prefix, 1024_u64),
            None => (unit.strip_suffix('b').unwrap_or(&unit), 1000),
        };
        let power = ["", "k", "m", "g", "t"].iter().position(|known| *known == prefix)?;
        base.checked_pow(u32::try_from(power).ok()?)
    };
    parse(text, factor).ok_or_else(|| "expected for instance `800MB` or `20GB`".to_owned())
}

fn parse(text: &str, factor: impl Fn(&str) -> Option<u64>) -> Option<u64> {
    let split = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    digits.parse::<u64>().ok()?.checked_mul(factor(unit)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_are_shown() {
        let shown = [0.04, 14.23, 59.99, 192.0, 7500.0].map(seconds);
        assert_eq!(shown, ["0.0 s", "14.2 s", "1 min 00 s", "3 min 12 s", "2 h 05 min"]);
        assert_eq!([812, 90_868_376, 999_999].map(bytes), ["812 B", "90.9 MB", "1.0 MB"]);
        assert_eq!(maybe_seconds(None), "–");
    }

    #[test]
    fn durations_and_sizes_are_read() {
        assert_eq!(parse_duration("30d"), Ok(Duration::from_secs(2_592_000)));
        assert_eq!(parse_bytes("20GB"), Ok(20_000_000_000));
        assert_eq!(parse_bytes("1KiB"), Ok(1024));
        assert_eq!(parse_bytes("17"), Ok(17));
        for wrong in ["", "d", "3w", "-1d", "99999999999999999999s"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
        assert!(parse_bytes("12 parsecs").is_err());
    }
}

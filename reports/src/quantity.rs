//! Numbers as people read them: a value and its unit become a short text.

/// Placeholder for a number that is not there.
pub(crate) const ABSENT: &str = "–";

/// `value` in `unit` as a short text, for instance `22.7 M`, `90.9 MB`, `84.7 %`, `3.42 ms`.
///
/// Three significant digits, except for fractions, which are percentages with one decimal.
pub(crate) fn quantity(value: f64, unit: &str) -> String {
    if !value.is_finite() {
        return ABSENT.to_owned();
    }
    match unit {
        "fraction" => format!("{} %", percent(value)),
        "bytes" => scaled(value, "B"),
        "count" | "" => scaled(value, ""),
        "flop" | "flops" | "FLOP" | "FLOPs" => scaled(value, "FLOP"),
        "s" => seconds(value),
        "ms" => milliseconds(value),
        _ if value.abs() >= 10_000.0 => format!("{} {unit}", scaled(value, "")),
        _ => format!("{} {unit}", significant(value)),
    }
}

/// The two ends of an interval around a value of `unit`, for instance `82.4–86.9 %`.
pub(crate) fn interval(low: f64, high: f64, unit: &str) -> String {
    // "−0.3–2.1" is hard to read.
    let dash = if low < 0.0 { " to " } else { "–" };
    if unit == "fraction" {
        return format!("{}{dash}{} %", percent(low), percent(high));
    }
    let (low, high) = (quantity(low, unit), quantity(high, unit));
    // One unit is enough, but "3 min 12–3 min 14 s" is none.
    match (low.split_once(' '), high.split_once(' ')) {
        (Some((number, unit)), Some((_, same))) if unit == same && !unit.contains(' ') => {
            format!("{number}{dash}{high}")
        }
        _ => format!("{low}{dash}{high}"),
    }
}

/// Seconds as `0.42 s`, `14.2 s`, `3 min 12 s` or `2 h 05 min`.
pub(crate) fn seconds(value: f64) -> String {
    if !value.is_finite() {
        return ABSENT.to_owned();
    }
    if value.abs() < 59.95 {
        return format!("{} s", significant(value));
    }
    let sign = if value < 0.0 { "−" } else { "" };
    let whole = value.abs().round() as u64;
    if whole < 3600 {
        format!("{sign}{} min {:02} s", whole / 60, whole % 60)
    } else {
        format!("{sign}{} h {:02} min", whole / 3600, whole % 3600 / 60)
    }
}

/// A number with three significant digits, never fewer digits than its whole part.
pub(crate) fn significant(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return if value == 0.0 { "0".to_owned() } else { ABSENT.to_owned() };
    }
    // The exponent after rounding, so that 0.9997 becomes "1.00" and not "1.000".
    let scientific = format!("{value:.2e}");
    let exponent = scientific.split_once('e').and_then(|(_, text)| text.parse::<i32>().ok());
    match exponent {
        Some(exponent @ -4..15) => {
            let decimals = usize::try_from(2 - exponent).unwrap_or(0);
            minus(&format!("{value:.decimals$}"))
        }
        _ => minus(&trim_exponent(&scientific)),
    }
}

/// The shortest text of a number that reads back as the same number; for parameters and bounds.
pub(crate) fn exact(value: f64) -> String {
    if value != 0.0 && !(1e-4..1e15).contains(&value.abs()) {
        return minus(&format!("{value:e}"));
    }
    minus(&value.to_string())
}

/// `value` with a sign in front, in percentage points, for instance `−0.4 pt`.
pub(crate) fn points(difference: f64) -> String {
    let rounded = (difference * 1000.0).round() / 10.0;
    match rounded {
        0.0 => "±0.0 pt".to_owned(),
        _ if rounded < 0.0 => format!("−{:.1} pt", -rounded),
        _ => format!("+{rounded:.1} pt"),
    }
}

/// A ratio as `4.4×` or `37×`.
pub(crate) fn ratio(value: f64) -> String {
    if value >= 99.95 {
        format!("{value:.0}×")
    } else if value >= 1.995 {
        let decimals = usize::from(value < 9.95);
        format!("{value:.decimals$}×")
    } else {
        format!("{value:.2}×")
    }
}

fn percent(fraction: f64) -> String {
    let value = fraction * 100.0;
    // One decimal would turn a small share into "0.0".
    if value != 0.0 && value.abs() < 0.1 {
        significant(value)
    } else {
        minus(&format!("{value:.1}"))
    }
}

fn milliseconds(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 => seconds(value / 1000.0),
        size if size < 0.1 && size > 0.0 => format!("{} µs", significant(value * 1000.0)),
        _ => format!("{} ms", significant(value)),
    }
}

/// A value with an SI prefix (powers of 1000) in front of `unit`.
fn scaled(value: f64, unit: &str) -> String {
    let mut size = value;
    let mut prefix = "";
    for next in ["k", "M", "G", "T", "P"] {
        // 999.5 would be printed as "1000".
        if size.abs() < 999.5 {
            break;
        }
        size /= 1000.0;
        prefix = next;
    }
    let whole = prefix.is_empty() && size.fract() == 0.0;
    let number = if whole { minus(&size.to_string()) } else { significant(size) };
    let suffix = format!("{prefix}{unit}");
    if suffix.is_empty() { number } else { format!("{number} {suffix}") }
}

fn trim_exponent(text: &str) -> String {
    match text.split_once('e') {
        Some((mantissa, exponent)) if mantissa.contains('.') => {
            format!("{}e{exponent}", mantissa.trim_end_matches('0').trim_end_matches('.'))
        }
        _ => text.to_owned(),
    }
}

fn minus(text: &str) -> String {
    // Only the sign of the number: the one of an exponent stays, "2e-5" is how people write it.
    text.strip_prefix('-').map_or_else(|| text.to_owned(), |rest| format!("−{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_read_well() {
        let check = |value, unit, expected: &str| assert_eq!(quantity(value, unit), expected);
        check(22_713_216.0, "count", "22.7 M");
        check(640.0, "count", "640");
        check(999_700.0, "count", "1.00 M");
        check(90_868_376.0, "bytes", "90.9 MB");
        check(0.847, "fraction", "84.7 %");
        check(0.0004, "fraction", "0.0400 %");
        check(3.4211, "ms", "3.42 ms");
        check(0.0123, "ms", "12.3 µs");
        check(1500.0, "ms", "1.50 s");
        check(192.4, "s", "3 min 12 s");
        check(7500.0, "s", "2 h 05 min");
        check(1_234.0, "examples/s", "1234 examples/s");
        check(123_456.0, "examples/s", "123 k examples/s");
        check(f64::NAN, "ms", ABSENT);
        check(-12.0, "widgets", "−12.0 widgets");
    }

    #[test]
    fn intervals_read_well() {
        assert_eq!(interval(0.824, 0.869, "fraction"), "82.4–86.9 %");
        assert_eq!(interval(-0.003, 0.021, "fraction"), "−0.3 to 2.1 %");
        assert_eq!(interval(1.5, 2.5, "ms"), "1.50–2.50 ms");
        assert_eq!(interval(0.05, 2.5, "ms"), "50.0 µs–2.50 ms");
        assert_eq!(interval(192.0, 194.0, "s"), "3 min 12 s–3 min 14 s");
    }

    #[test]
    fn small_and_large_numbers_use_exponents() {
        assert_eq!(significant(0.00002), "2e-5");
        assert_eq!(significant(-1.25e18), "−1.25e18");
        assert_eq!(exact(5e-5), "5e-5");
        assert_eq!(exact(0.005), "0.005");
    }

    #[test]
    fn changes_have_a_sign_or_a_factor() {
        assert_eq!(points(-0.0042), "−0.4 pt");
        assert_eq!(points(0.0), "±0.0 pt");
        assert_eq!(points(0.012), "+1.2 pt");
        assert_eq!(ratio(11.04), "11×");
        assert_eq!(ratio(4.36), "4.4×");
        assert_eq!(ratio(1.12), "1.12×");
    }
}

//! Addresses of pages.

use std::fmt::Write as _;

use engine::history::RunChoice;

use crate::failure::Failure;

/// Encodes a text to stand for itself in a segment of a path or in a query.
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            encoded.push(char::from(byte));
        } else {
            let _infallible = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// `?name=value&…` of the pairs that have a value.
pub(crate) fn query<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut text = String::new();
    for (name, value) in pairs.into_iter().filter(|(_, value)| !value.is_empty()) {
        text.push(if text.is_empty() { '?' } else { '&' });
        let _infallible = write!(text, "{name}={}", encode(value));
    }
    text
}

/// The page of a log.
pub(crate) fn log(run: i64, stage: &str) -> String {
    format!("/runs/{run}/logs/{}", encode(stage))
}

/// Reads the run of an address, a number or `latest`.
pub(crate) fn run(text: &str) -> Result<RunChoice, Failure> {
    text.parse().map_err(Failure::missing)
}

/// Reads the sweep of an address.
pub(crate) fn sweep(text: &str) -> Result<i64, Failure> {
    text.parse().map_err(|_| {
        Failure::missing(format!("expected the number of a sweep in the address, found `{text}`"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_stand_for_themselves() {
        assert_eq!(query([("a", "x y&z"), ("b", ""), ("c", "é")]), "?a=x%20y%26z&c=%C3%A9");
        assert_eq!(log(3, "a/b"), "/runs/3/logs/a%2Fb");
        assert_eq!(query([]), "");
    }
}

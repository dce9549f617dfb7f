//! Who is answered, and what browsers may do with the answers.
//!
//! A page of another site can make a browser ask this server. It must not get an answer under a
//! name of its own (DNS rebinding: the `Host` is checked) and must not write (the `Origin` is
//! checked, and the token is needed).

use axum::extract::{Request, State as Extract};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use crate::failure::Failure;
use crate::state::State;

/// Styles of single elements are allowed: the drawings of reports have widths.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; style-src-attr 'unsafe-inline'; img-src data:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

const HEADERS: [(&str, &str); 6] = [
    ("content-security-policy", CONTENT_SECURITY_POLICY),
    ("x-content-type-options", "nosniff"),
    // With `no-referrer` a form would be sent without its origin.
    ("referrer-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cache-control", "no-store"),
];

/// Answers requests that are meant for this server, and adds the headers of every answer.
pub(crate) async fn guard(
    Extract(state): Extract<State>,
    request: Request,
    next: Next,
) -> Response {
    let mut response = match refusal(request.method(), request.headers(), state.shared.port) {
        None => next.run(request).await,
        Some(failure) => failure.into_response(),
    };
    for (name, value) in HEADERS {
        let headers = response.headers_mut();
        if !headers.contains_key(name) {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
    response
}

fn refusal(method: &Method, headers: &HeaderMap, port: u16) -> Option<Failure> {
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let host = text(header::HOST).unwrap_or_default();
    if !is_ours(host, port) {
        let message = format!(
            "expected a request for 127.0.0.1:{port}, found one for `{host}`; use the address that `pipeline ui` printed"
        );
        return Some(Failure::new(StatusCode::MISDIRECTED_REQUEST, message));
    }
    if method == Method::GET || method == Method::HEAD {
        return None;
    }
    let site = headers.get("sec-fetch-site").and_then(|value| value.to_str().ok());
    let from_elsewhere = match headers.get(header::ORIGIN) {
        Some(origin) => origin.to_str().ok() != Some(&format!("http://{host}")),
        None => site.is_some_and(|site| !matches!(site, "same-origin" | "none")),
    };
    from_elsewhere.then(|| {
        let message =
            "expected a form of these pages, found one of another site; nothing was changed";
        Failure::new(StatusCode::FORBIDDEN, message)
    })
}

fn is_ours(host: &str, port: u16) -> bool {
    let Some((name, found)) = host.rsplit_once(':') else { return false };
    found.parse() == Ok(port) && matches!(name, "127.0.0.1" | "localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_printed_address_is_ours() {
        for ours in ["127.0.0.1:80", "localhost:80"] {
            assert!(is_ours(ours, 80), "{ours}");
        }
        for other in ["", "127.0.0.1", "127.0.0.1:81", "evil.example:80", "127.0.0.1.evil:80"] {
            assert!(!is_ours(other, 80), "{other}");
        }
    }
}

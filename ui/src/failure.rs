//! Errors as pages: what was expected, what was found, what to do.

use axum::extract::rejection::{FormRejection, QueryRejection};
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};
use engine::history::HistoryError;
use minijinja::context;
use reports::RenderError;

use crate::template;

/// Why there is no answer.
#[derive(Debug)]
pub(crate) struct Failure {
    status: StatusCode,
    message: String,
}

impl Failure {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    /// Something that is not there.
    pub(crate) fn missing(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// A request that is wrong.
    pub(crate) fn wrong(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// This program or its database is broken.
    pub(crate) fn broken(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }
}

/// The answer to an address that no page has.
pub(crate) async fn no_page() -> Failure {
    Failure::missing("there is no page at this address; the list of runs leads to all pages")
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let title = self.status.canonical_reason().unwrap_or("Error");
        let message = self.message.as_str();
        match template::print("error.html", context! { title, message }) {
            Ok(page) => (self.status, page).into_response(),
            Err(_) => (self.status, self.message).into_response(),
        }
    }
}

impl From<HistoryError> for Failure {
    fn from(error: HistoryError) -> Self {
        match error {
            HistoryError::NoRun { id } => {
                Self::missing(format!("there is no run {id}; the list of runs has all there are"))
            }
            HistoryError::NoSweep { id } => Self::missing(format!(
                "there is no sweep {id}; the list of sweeps has all there are"
            )),
            error @ (HistoryError::NoStage { .. }
            | HistoryError::NoLog { .. }
            | HistoryError::NoOrigin { .. }) => Self::missing(error.to_string()),
            other => Self::broken(other.to_string()),
        }
    }
}

impl From<RenderError> for Failure {
    fn from(error: RenderError) -> Self {
        Self::broken(error.to_string())
    }
}

impl From<minijinja::Error> for Failure {
    fn from(error: minijinja::Error) -> Self {
        Self::broken(format!("a template of a page failed: {error:#}"))
    }
}

impl From<QueryRejection> for Failure {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(rejection.status(), format!("the address is wrong: {}", rejection.body_text()))
    }
}

impl From<FormRejection> for Failure {
    fn from(rejection: FormRejection) -> Self {
        Self::new(rejection.status(), format!("the form is wrong: {}", rejection.body_text()))
    }
}

/// A page, or why there is none.
pub(crate) type Page = Result<Html<String>, Failure>;

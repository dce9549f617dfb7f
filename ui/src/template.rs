//! The templates of the pages. What comes from a record is escaped; what [`reports`] printed is not
//! escaped again.

use std::sync::LazyLock;

use axum::response::Html;
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Error, UndefinedBehavior, Value};

use crate::failure::Failure;

const TEMPLATES: [(&str, &str); 12] = [
    ("frame.html", include_str!("templates/frame.html")),
    ("runs.html", include_str!("templates/runs.html")),
    ("rows.html", include_str!("templates/rows.html")),
    ("run.html", include_str!("templates/run.html")),
    ("forms.html", include_str!("templates/forms.html")),
    ("live.html", include_str!("templates/live.html")),
    ("sweeps.html", include_str!("templates/sweeps.html")),
    ("sweep-rows.html", include_str!("templates/sweep-rows.html")),
    ("sweep.html", include_str!("templates/sweep.html")),
    ("compare.html", include_str!("templates/compare.html")),
    ("log.html", include_str!("templates/log.html")),
    ("error.html", include_str!("templates/error.html")),
];

static ENVIRONMENT: LazyLock<Environment<'static>> =
    LazyLock::new(|| environment().expect("the templates are part of the program and are tested"));

fn environment() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    for (name, source) in TEMPLATES {
        environment.add_template(name, source)?;
    }
    Ok(environment)
}

/// Prints a page.
pub(crate) fn print(name: &str, context: Value) -> Result<Html<String>, Failure> {
    Ok(Html(ENVIRONMENT.get_template(name)?.render(context)?))
}

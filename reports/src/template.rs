//! Prints a page through the templates of this crate; everything that comes from a record is
//! escaped on the way.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{
    AutoEscape, Environment, Error, ErrorKind, Output, State, UndefinedBehavior, Value, context,
};

use serde::Serialize;

use crate::RenderError;
use crate::page::Page;
use crate::sweep;

/// Name of the escaping of Markdown templates.
const MARKDOWN: &str = "markdown";

const TEMPLATES: [(&str, &str); 10] = [
    ("report.html", include_str!("templates/report.html")),
    ("run.html", include_str!("templates/run.html")),
    ("head.html", include_str!("templates/head.html")),
    ("comparison.html", include_str!("templates/comparison.html")),
    ("inspected.html", include_str!("templates/inspected.html")),
    ("sweep.html", include_str!("templates/sweep.html")),
    ("parts.html", include_str!("templates/parts.html")),
    ("plots.html", include_str!("templates/plots.html")),
    ("report.md", include_str!("templates/report.md")),
    ("sweep.md", include_str!("templates/sweep.md")),
];
/// How pages look.
pub(crate) const STYLE: &str = include_str!("templates/style.css");
/// Sorts tables; without it they stay in the order of the page.
const SCRIPT: &str = include_str!("templates/sort.js");

/// The page as one HTML file.
pub(crate) fn html(page: &Page) -> Result<String, RenderError> {
    print("report.html", page)
}

/// What is inside the page's `<main>`, for a page with a frame of its own.
pub(crate) fn content(page: &Page) -> Result<String, RenderError> {
    print_content("report.html", page)
}

/// The same of a page on sweeps.
pub(crate) fn sweep_content(page: &sweep::Page) -> Result<String, RenderError> {
    print_content("sweep.html", page)
}

fn print_content(name: &str, page: &impl Serialize) -> Result<String, RenderError> {
    let environment = environment()?;
    let template = environment.get_template(name)?;
    let mut printed =
        template.render_captured(context! { page => Serde(page), style => "", script => "" })?;
    Ok(printed.with_state_mut(|state| state.render_block("content"))?)
}

/// The page as Markdown.
pub(crate) fn markdown(page: &Page) -> Result<String, RenderError> {
    print("report.md", page)
}

/// A page on sweeps as one HTML file.
pub(crate) fn sweep_html(page: &sweep::Page) -> Result<String, RenderError> {
    print("sweep.html", page)
}

/// A page on sweeps as Markdown.
pub(crate) fn sweep_markdown(page: &sweep::Page) -> Result<String, RenderError> {
    print("sweep.md", page)
}

fn print(name: &str, page: &impl Serialize) -> Result<String, RenderError> {
    let environment = environment()?;
    let style = Value::from_safe_string(STYLE.to_owned());
    let script = Value::from_safe_string(SCRIPT.to_owned());
    let template = environment.get_template(name)?;
    Ok(template.render(context! { page => Serde(page), style, script })?)
}

fn environment() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    // A block tag on a line of its own leaves no line behind.
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|name| match name.rsplit_once('.') {
        Some((_, "md")) => AutoEscape::Custom(MARKDOWN.into()),
        _ => AutoEscape::Html,
    });
    environment.set_formatter(write_value);
    for (name, source) in TEMPLATES {
        environment.add_template(name, source)?;
    }
    Ok(environment)
}

fn write_value(
    out: &mut Output<'_>,
    state: &mut State<'_, '_>,
    value: &Value,
) -> Result<(), Error> {
    if !matches!(state.auto_escape(), AutoEscape::Custom(name) if name == MARKDOWN) {
        return minijinja::escape_formatter(out, state, value);
    }
    if value.is_undefined() {
        return Err(Error::new(ErrorKind::UndefinedError, "a field of the page is not there"));
    }
    let text = value.to_string();
    let text = if value.is_safe() { text } else { escape_markdown(&text) };
    out.write_str(&text).map_err(Error::from)
}

/// Makes a text stand for itself in a table cell or a paragraph, HTML included, on one line.
fn escape_markdown(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\r' => {}
            '\n' => escaped.push_str("<br>"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '@' => escaped.push_str("&#64;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '#' | '!' | '~' => {
                escaped.push('\\');
                escaped.push(character);
            }
            _ => escaped.push(character),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markdown_stands_for_itself() {
        let check = |text: &str, expected: &str| assert_eq!(escape_markdown(text), expected);
        check("a|b", r"a\|b");
        check("<script>", "&lt;script&gt;");
        check("[x](http://y) @all #1", r"\[x\](http://y) &#64;all \#1");
        check("one\r\ntwo", "one<br>two");
    }
}

//! To come.

use serde_json::{Value, json};

use super::{Ask, Draws, TpeOptions};
use crate::sweep::space::Params;

pub(super) fn ask(_: &TpeOptions, ask: &Ask<'_>) -> (Params, Value) {
    (Draws::new(ask.seed, ask.number).point(ask.space), json!({}))
}

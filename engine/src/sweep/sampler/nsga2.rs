//! To come.

use serde_json::{Value, json};

use super::{Ask, Draws, Nsga2Options};
use crate::sweep::space::Params;

pub(super) fn ask(_: &Nsga2Options, ask: &Ask<'_>) -> (Params, Value) {
    (Draws::new(ask.seed, ask.number).point(ask.space), json!({}))
}

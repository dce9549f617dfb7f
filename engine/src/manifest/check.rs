//! Checks of the graph of stages: references, ports, cycles.

use std::collections::{BTreeMap, BTreeSet};

use super::Reference;
use super::diagnostic::{article, did_you_mean, listed, only};
use super::read::Reader;
use super::sections::{Draft, DraftInput};
use crate::stage::Port;

/// Checks every edge and gives the stages' positions back, upstream first; what cannot be
/// ordered because of a cycle is left out and reported.
pub(super) fn graph(
    reader: &mut Reader<'_>,
    drafts: &[Draft],
    data: &BTreeSet<String>,
    models: &BTreeSet<String>,
) -> Vec<usize> {
    if drafts.is_empty() {
        reader.error(
            &(0..0),
            "the manifest has no stages".to_owned(),
            Some("add a `[stages.NAME]`".to_owned()),
        );
    }
    let names: BTreeMap<&str, usize> =
        drafts.iter().enumerate().map(|(index, draft)| (draft.name.as_str(), index)).collect();
    let scope = Scope { drafts, names, data, models };
    let mut upstream = vec![BTreeSet::new(); drafts.len()];
    for (index, draft) in drafts.iter().enumerate() {
        for input in &draft.inputs {
            upstream[index].extend(scope.edge(reader, draft, input));
        }
        required_inputs(reader, draft);
    }
    ordered(reader, drafts, &upstream)
}

/// What references may point at.
struct Scope<'a> {
    drafts: &'a [Draft],
    names: BTreeMap<&'a str, usize>,
    data: &'a BTreeSet<String>,
    models: &'a BTreeSet<String>,
}

impl Scope<'_> {
    /// Checks one input; gives the upstream stage back where there is one.
    fn edge(&self, reader: &mut Reader<'_>, draft: &Draft, input: &DraftInput) -> Option<usize> {
        let port = draft.stage.and_then(|stage| {
            let known = stage.inputs();
            let found = known.iter().find(|port| port.name == input.port);
            if found.is_none() {
                let names = || known.iter().map(|port| port.name);
                let message = format!(
                    "stage `{}`: kind `{}` has no input `{}`, expected {}",
                    draft.name,
                    stage.kind(),
                    input.port,
                    listed(names())
                );
                reader.error(&input.port_span, message, did_you_mean(&input.port, names()));
            }
            found
        });
        let Some(reference) = Reference::parse(&input.from) else {
            let message = format!(
                "stage `{}`: `{}` is no reference, expected `STAGE.PORT`, `data.NAME` or `models.NAME`",
                draft.name, input.from
            );
            reader.error(&input.from_span, message, None);
            return None;
        };
        let (kind, upstream) = match &reference {
            Reference::Data(name) => (self.source(reader, draft, input, name, Source::Data), None),
            Reference::Model(name) => {
                (self.source(reader, draft, input, name, Source::Model), None)
            }
            Reference::Stage { stage, port } => self.upstream(reader, draft, input, stage, port),
        };
        if let (Some(port), Some(kind)) = (port, kind)
            && port.kind != kind
        {
            self.wrong_kind(reader, draft, input, port, kind);
        }
        upstream
    }

    fn source(
        &self,
        reader: &mut Reader<'_>,
        draft: &Draft,
        input: &DraftInput,
        name: &str,
        source: Source,
    ) -> Option<&'static str> {
        let (section, kind, known) = match source {
            Source::Data => ("data", "dataset", self.data),
            Source::Model => ("models", "checkpoint", self.models),
        };
        if known.contains(name) {
            return Some(kind);
        }
        let known = || known.iter().map(String::as_str);
        let message =
            format!("stage `{}`: there is no `[{section}.{name}]`, {}", draft.name, only(known()));
        reader.error(&input.from_span, message, did_you_mean(name, known()));
        None
    }

    fn upstream(
        &self,
        reader: &mut Reader<'_>,
        draft: &Draft,
        input: &DraftInput,
        stage: &str,
        port: &str,
    ) -> (Option<&'static str>, Option<usize>) {
        let Some(&index) = self.names.get(stage) else {
            let others = || self.names.keys().copied().filter(|name| *name != draft.name);
            let message =
                format!("stage `{}`: there is no stage `{stage}`, {}", draft.name, only(others()));
            reader.error(&input.from_span, message, did_you_mean(stage, others()));
            return (None, None);
        };
        let Some(kind) = self.drafts[index].stage else {
            return (None, Some(index));
        };
        let found = kind.outputs().iter().find(|output| output.name == port);
        if found.is_none() {
            let names = || kind.outputs().iter().map(|output| output.name);
            let message = format!(
                "stage `{}`: stage `{stage}` of kind `{}` has no output `{port}`, {}",
                draft.name,
                kind.kind(),
                only(names())
            );
            reader.error(&input.from_span, message, did_you_mean(port, names()));
        }
        (found.map(|output| output.kind), Some(index))
    }

    /// Reports an edge between ports of two kinds, with the connections that would fit.
    fn wrong_kind(
        &self,
        reader: &mut Reader<'_>,
        draft: &Draft,
        input: &DraftInput,
        port: &Port,
        found: &str,
    ) {
        let mut fitting: Vec<String> = Vec::new();
        for other in self.drafts.iter().filter(|other| other.name != draft.name) {
            let outputs = other.stage.map_or(&[][..], |stage| stage.outputs());
            let matching = outputs.iter().filter(|output| output.kind == port.kind);
            fitting.extend(matching.map(|output| format!("{}.{}", other.name, output.name)));
        }
        match port.kind {
            "dataset" => fitting.extend(self.data.iter().map(|name| format!("data.{name}"))),
            "checkpoint" => fitting.extend(self.models.iter().map(|name| format!("models.{name}"))),
            _ => {}
        }
        let message = format!(
            "stage `{}`: input `{}` takes {} {}, but `{}` is {} {found}",
            draft.name,
            port.name,
            article(port.kind),
            port.kind,
            input.from,
            article(found)
        );
        let help = format!("of that kind: {}", listed(fitting.iter().map(String::as_str)));
        reader.error(&input.from_span, message, Some(help));
    }
}

#[derive(Clone, Copy)]
enum Source {
    Data,
    Model,
}

fn required_inputs(reader: &mut Reader<'_>, draft: &Draft) {
    let Some(stage) = draft.stage else {
        return;
    };
    for port in stage.inputs().iter().filter(|port| port.required) {
        if draft.inputs.iter().all(|input| input.port != port.name) {
            let message = format!(
                "stage `{}`: input `{}` of kind `{}` is not connected ({})",
                draft.name, port.name, port.kind, port.about
            );
            reader.error(&draft.span, message, Some(format!("add `inputs.{} = \"…\"`", port.name)));
        }
    }
}

/// Kahn's algorithm, always taking the first ready stage in file order.
fn ordered(reader: &mut Reader<'_>, drafts: &[Draft], upstream: &[BTreeSet<usize>]) -> Vec<usize> {
    let mut order: Vec<usize> = Vec::new();
    while let Some(next) = (0..drafts.len()).find(|index| {
        !order.contains(index) && upstream[*index].iter().all(|needed| order.contains(needed))
    }) {
        order.push(next);
    }
    if let Some(start) = (0..drafts.len()).find(|index| !order.contains(index)) {
        let cycle = cycle_from(start, upstream, &order);
        let names: Vec<_> = cycle.iter().map(|index| drafts[*index].name.as_str()).collect();
        let message = format!("stages wait for each other: {}", names.join(" → "));
        let help = "cut one of these inputs; stages have to form a graph without cycles".to_owned();
        reader.error(&drafts[cycle[0]].span, message, Some(help));
    }
    order
}

/// Follows unordered upstream stages until one comes round again; upstream first.
fn cycle_from(start: usize, upstream: &[BTreeSet<usize>], order: &[usize]) -> Vec<usize> {
    let mut walked = vec![start];
    loop {
        let last = walked[walked.len() - 1];
        let next = *upstream[last]
            .iter()
            .find(|needed| !order.contains(needed))
            .expect("a stage that cannot be ordered waits for another such stage");
        if let Some(first) = walked.iter().position(|index| *index == next) {
            let mut cycle = walked.split_off(first);
            cycle.push(next);
            cycle.reverse();
            return cycle;
        }
        walked.push(next);
    }
}

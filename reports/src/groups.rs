//! Runs that differ only in their seed, as one.

use engine::history::RunRecord;
use serde_json::Value;

use crate::versus::{Versus, versus};

/// Runs of one manifest with the same settings on the same machine, one a seed.
#[derive(Debug, Clone)]
pub(crate) struct Group<'run> {
    /// What tables call it.
    pub(crate) name: String,
    /// One run a seed, in the order given.
    pub(crate) runs: Vec<&'run RunRecord>,
    /// Numbers of runs that repeat a seed of the group; they add nothing and are left out.
    pub(crate) repeated: Vec<i64>,
}

impl Group<'_> {
    /// Whether a run of this number is one of them.
    pub(crate) fn has(&self, run: i64) -> bool {
        self.repeated.contains(&run) || self.runs.iter().any(|other| other.summary.id == run)
    }
}

/// The groups of `runs` in the order first met.
///
/// Two runs belong together when their manifest's name, stages, parameters, inputs and data are the
/// same, and the machine and program too, because they change latencies. The commit of the project
/// does not count: what it could change is compared itself.
pub(crate) fn groups(runs: &[RunRecord]) -> Vec<Group<'_>> {
    let mut groups: Vec<(Value, Group<'_>)> = Vec::new();
    for run in runs {
        let settings = settings(run);
        match groups.iter_mut().find(|(known, _)| *known == settings) {
            None => {
                let group = Group { name: String::new(), runs: vec![run], repeated: Vec::new() };
                groups.push((settings, group));
            }
            Some((_, group)) => {
                match group.runs.iter_mut().find(|other| other.seed == run.seed) {
                    None => group.runs.push(run),
                    // The newest of a seed is the one that counts.
                    Some(other) => {
                        let older = if other.summary.id < run.summary.id {
                            std::mem::replace(other, run)
                        } else {
                            run
                        };
                        group.repeated.push(older.summary.id);
                    }
                }
            }
        }
    }
    groups.into_iter().map(|(_, group)| Group { name: name(&group), ..group }).collect()
}

/// The groups of `runs` against the one that the run of index `baseline` belongs to.
pub(crate) fn compare(runs: &[RunRecord], baseline: usize) -> Versus {
    let groups = groups(runs);
    let has_baseline = |group: &Group<'_>| group.has(runs[baseline].summary.id);
    versus(&groups, groups.iter().position(has_baseline).unwrap_or(0))
}

fn name(group: &Group<'_>) -> String {
    let numbers: Vec<String> =
        group.runs.iter().map(|run| format!("#{}", run.summary.id)).collect();
    let manifest = &group.runs[0].summary.manifest;
    match numbers.as_slice() {
        [first, _, .., last] => format!("{manifest} {first} … {last}"),
        _ => format!("{manifest} {}", numbers.join(", ")),
    }
}

/// Everything that has to be the same.
fn settings(run: &RunRecord) -> Value {
    let machine = &run.environment;
    let sources: Vec<[&str; 2]> = run
        .datasets
        .iter()
        .chain(&run.models)
        .map(|source| [source.name.as_str(), source.digest.as_str()])
        .collect();
    let stages: Vec<Value> = run
        .stages
        .iter()
        .map(|stage| {
            let inputs: Vec<[&str; 2]> =
                stage.inputs.iter().map(|edge| [edge.port.as_str(), edge.from.as_str()]).collect();
            serde_json::json!([stage.name, stage.kind, stage.params, inputs])
        })
        .collect();
    serde_json::json!([
        run.summary.manifest,
        run.device,
        [machine.cpu_model, machine.version],
        [machine.cores, machine.memory_bytes],
        machine.gpus,
        sources,
        stages,
    ])
}

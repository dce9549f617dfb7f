//! An explanation as text, at most 100 columns wide.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use runtime::{ExplainedNode, Explanation, NodeCost, NodeProfile, PassCheck, Profile, SlicedUse};

use super::Report;
use crate::cli::answer::columns;
use crate::cli::model::{failed_tiers, place};
use crate::cli::quantity::{ABSENT, bytes};

/// Where lines end.
const WIDTH: usize = 100;
/// Fewest characters of a node's name; it gets what the other columns leave.
const NAME: usize = 12;
/// Most characters of a kernel's name and a shape.
const KERNEL: usize = 22;
const SHAPE: usize = 12;

pub(super) fn text(report: &Report<'_>, rejected: bool) -> String {
    let explanation = report.explanation;
    let mut text = place(explanation);
    text.push_str(&machine(explanation));
    text.push_str(&failed_tiers(&report.failed_tiers, &explanation.tier));
    passes(&mut text, report);
    let (before, after) = (report.graph_nodes, explanation.nodes.len());
    let _infallible = writeln!(text, "\nnodes of the graph: {before}; that run: {after}");
    counts(&mut text, "before", &explanation.operations_before);
    counts(&mut text, "after", &explanation.operations_after);
    text.push('\n');
    match (&report.profile, &report.profile_unavailable) {
        (Some(profile), _) => times(&mut text, report, profile),
        (None, reason) => {
            let reason = reason.as_deref().unwrap_or("unknown");
            let _infallible = writeln!(text, "times unavailable: {reason}");
        }
    }
    text.push_str(&nodes(explanation, report.profile.as_ref()));
    if rejected {
        choices(&mut text, explanation);
    }
    text
}

fn machine(explanation: &Explanation) -> String {
    let Explanation { tier, threads, constant_bytes, packed_bytes, .. } = explanation;
    let size = |size: &usize| bytes(*size as u64);
    format!(
        "kernels for {tier}, {threads} threads, {} of constants, {} of packed weights\n\n",
        size(constant_bytes),
        size(packed_bytes)
    )
}

fn passes(text: &mut String, report: &Report<'_>) {
    let fired = || report.explanation.passes.iter().filter(|pass| pass.fired > 0);
    text.push_str(match fired().next() {
        Some(_) => "passes that fired:\n",
        None => "no pass fired\n",
    });
    for pass in fired() {
        let _infallible = writeln!(text, "  {} {}×", pass.name, pass.fired);
    }
    if !report.checks.is_empty() {
        text.push_str("\nworst error against the graph's own definition, once a pass has run:\n");
    }
    for PassCheck { name, worst_error, .. } in &report.checks {
        let _infallible = writeln!(text, "  {name} {worst_error:.1e}");
    }
}

/// Kinds of operation, most frequent first, in lines that are not too long.
fn counts(text: &mut String, title: &str, counts: &BTreeMap<String, usize>) {
    let mut counts: Vec<(&String, &usize)> = counts.iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let mut line = format!("  {title}:");
    for (index, (kind, count)) in counts.iter().enumerate() {
        let comma = if index + 1 < counts.len() { "," } else { "" };
        let item = format!(" {kind} {count}{comma}");
        if line.chars().count() + item.chars().count() > WIDTH {
            let _infallible = writeln!(text, "{line}");
            line = " ".repeat(title.len() + 3);
        }
        line.push_str(&item);
    }
    let _infallible = writeln!(text, "{line}");
}

/// What was timed, and what the machine can do.
fn times(text: &mut String, report: &Report<'_>, profile: &Profile) {
    let Profile { runs, run_ms, predicted_ms, flops, fork_join_us, .. } = profile;
    let at = if report.sizes.is_empty() { String::new() } else { format!(" at {}", report.sizes) };
    let predicted = predicted_ms.map_or_else(String::new, |ms| format!(", predicted {ms:.3} ms"));
    let flops = flops.map_or_else(String::new, |flops| {
        format!(", {:.3} GFLOP, {:.1} GFLOP/s", flops as f64 / 1e9, flops as f64 / run_ms / 1e6)
    });
    let _infallible = writeln!(text, "median of {runs} runs{at}: {run_ms:.3} ms{predicted}{flops}");
    let most = report.explanation.threads;
    let peaks = profile.peaks.iter().filter(|peak| peak.threads == most);
    let peaks: Vec<String> =
        peaks.map(|peak| format!("{} {:.0} {}", peak.name, peak.rate, peak.unit)).collect();
    match peaks.is_empty() {
        true => text.push_str("peaks of this machine: unknown, so no prediction\n"),
        false => {
            let _infallible = writeln!(text, "peaks of {most} threads, measured now:");
            for peak in peaks {
                let _infallible = writeln!(text, "  {peak}");
            }
        }
    }
    let _infallible = writeln!(text, "a fork and join takes {fork_join_us:.1} µs");
    if let Some(SlicedUse { count, .. }) = profile.sliced {
        let _infallible = writeln!(
            text,
            "the nodes were timed on the whole batch; a run is cut into {count} slices of it, see `bench`"
        );
    }
    if report.explanation.on_gpu() {
        text.push_str("every node's time holds a wait for the GPU, which runs do without\n");
    }
    text.push('\n');
}

fn nodes(explanation: &Explanation, profile: Option<&Profile>) -> String {
    let Some(profile) = profile else {
        let header = ["node", "kernel", "fuses", "output"].map(str::to_owned);
        let row = |node: &ExplainedNode| {
            [node.name.clone(), kernel(node, KERNEL), fuses(node), node.output.clone()]
        };
        let rows = std::iter::once(header).chain(explanation.nodes.iter().map(row));
        return columns(&narrow(rows.collect()));
    };
    let header = ["node", "kernel", "fuses", "output", "MFLOP", "pred. ms", "ms", "of peak"];
    let row = |(node, timed): (&ExplainedNode, &NodeProfile)| {
        let cost = timed.cost.as_ref();
        let predicted = cost.and_then(|cost| cost.predicted_ms);
        let flops = cost.map(|cost| cost.flops).filter(|flops| *flops > 0);
        [
            node.name.clone(),
            kernel(node, KERNEL),
            fuses(node),
            timed.shape.as_deref().map_or_else(|| shorten(&node.output, SHAPE), shape),
            flops.map_or_else(|| ABSENT.to_owned(), millions),
            predicted.map_or_else(|| ABSENT.to_owned(), |ms| format!("{ms:.3}")),
            format!("{:.3}", timed.measured_ms),
            cost.map_or_else(|| ABSENT.to_owned(), share),
        ]
    };
    let rows = explanation.nodes.iter().zip(&profile.nodes).map(row);
    let rows = std::iter::once(header.map(str::to_owned)).chain(rows);
    columns(&narrow(rows.collect()))
}

/// Rows whose first column is cut to what the others leave of a line.
fn narrow<const N: usize>(mut rows: Vec<[String; N]>) -> Vec<[String; N]> {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let others: usize = (1..N).map(|column| 2 + width(column).unwrap_or(0)).sum();
    let most = WIDTH.saturating_sub(others).max(NAME);
    rows.iter_mut().for_each(|row| row[0] = shorten(&row[0], most));
    rows
}

/// With two digits behind the point, as long as there are few before it.
fn millions(count: u64) -> String {
    let millions = count as f64 / 1e6;
    if millions < 1000.0 { format!("{millions:.2}") } else { format!("{millions:.0}") }
}

/// The kernel's name says the operation, but for the one that runs any.
fn kernel(node: &ExplainedNode, most: usize) -> String {
    match node.kernel.as_str() {
        "reference" => shorten(&format!("reference {}", node.operation), most),
        name => shorten(name, most),
    }
}

fn fuses(node: &ExplainedNode) -> String {
    match node.fused_from.len() {
        0 => String::new(),
        count => count.to_string(),
    }
}

fn shape(sizes: &[usize]) -> String {
    let sizes: Vec<String> = sizes.iter().map(usize::to_string).collect();
    if sizes.is_empty() { "scalar".to_owned() } else { shorten(&sizes.join("×"), SHAPE) }
}

/// Share of the peak that limits the node: of operations, or of reading memory.
fn share(cost: &NodeCost) -> String {
    let (bound, share) = match cost.bound {
        Some("memory") => ("bytes", cost.memory_share),
        Some(numbers) => (numbers, cost.peak_share),
        None => return ABSENT.to_owned(),
    };
    share.map_or_else(|| ABSENT.to_owned(), |share| format!("{:.0} % {bound}", 100.0 * share))
}

/// At most `most` characters: the middle goes.
fn shorten(text: &str, most: usize) -> String {
    let letters: Vec<char> = text.chars().collect();
    if letters.len() <= most {
        return text.to_owned();
    }
    let (head, tail) = ((most - 1) / 2, most / 2);
    let parts = [&letters[..head], &['…'], &letters[letters.len() - tail..]];
    parts.concat().into_iter().collect()
}

fn choices(text: &mut String, explanation: &Explanation) {
    text.push_str("\nwhy these kernels, and not others:\n");
    for node in &explanation.nodes {
        let _infallible = writeln!(text, "  {}: {}, {}", node.name, node.kernel, node.reason);
        for other in &node.rejected {
            let _infallible = writeln!(text, "    not {}: {}", other.kernel, other.reason);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_lose_their_middle() {
        for (name, expected) in
            [("short", "short"), ("exactly10!", "exactly10!"), ("encoder/layer", "enco…layer")]
        {
            assert_eq!(shorten(name, 10), expected);
            assert!(shorten(name, 10).chars().count() <= 10);
        }
    }

    #[test]
    fn names_get_what_the_other_columns_leave() {
        let row = |length: usize, other: usize| ["n".repeat(length), "o".repeat(other)];
        let most = |rows| narrow(rows).iter().map(|row| row[0].chars().count()).max();
        assert_eq!(most(vec![row(200, 40), row(3, 10)]), Some(58));
        assert_eq!(most(vec![row(200, 300)]), Some(NAME));
    }

    #[test]
    fn lines_of_counts_stay_narrow() {
        let many = (0..40).map(|kind| (format!("Operation{kind}"), kind + 1)).collect();
        let mut text = String::new();
        counts(&mut text, "before", &many);
        assert!(text.lines().count() > 3 && text.lines().all(|line| line.chars().count() <= 100));
        assert!(text.starts_with("  before: Operation39 40,"), "{text}");
    }
}

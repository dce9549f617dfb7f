use graph::Graph;
use graph::bert::{self, BertConfig, BertLayer};

use super::{Distill, Masking, Match, Subnetwork, Supernet, Teacher};
use crate::loss::{CrossEntropy, Distillation};
use crate::objective::{Objective as _, Silent, Step};
use crate::temperature::{Shape, Temperature};
use crate::{Device, Examples, Network, NetworkOptions, Recipe, evaluate, fit};

fn config(hidden: usize, layers: usize) -> BertConfig {
    let layer = BertLayer { heads: hidden / 4, intermediate: 2 * hidden };
    BertConfig { positions: 8, ..BertConfig::uniform(20, hidden, layers, layer) }
}

fn network(graph: &Graph, options: &NetworkOptions) -> Network {
    Network::new(graph, &Device::cpu(), options).unwrap()
}

fn build(config: &BertConfig, seed: u64) -> Graph {
    let mut initial = bert::initial_weights(seed);
    let mut weight = |name: &str, shape: &[usize]| match shape {
        [_, _] => Ok(bert::normal(seed, name, shape, 0.3)),
        _ => initial(name, shape),
    };
    bert::build(config, &mut weight).unwrap()
}

/// Rows whose class is whether the second token is large.
fn rows() -> Examples {
    let ids: Vec<Vec<u32>> = (0..32).map(|row| vec![1, row % 20, (row * 7) % 20, 2]).collect();
    let labels = ids.iter().map(|ids| usize::from(ids[1] >= 10)).collect();
    Examples { ids, labels }
}

fn recipe(epochs: usize) -> Recipe {
    Recipe { epochs, batch_size: 8, learning_rate: 1e-2, dropout: 0.0, ..Recipe::default() }
}

fn distillation(alpha: f32) -> Distillation {
    Distillation { alpha, hard: CrossEntropy::default() }
}

/// Mean squared difference between two tables of logits, of what softmax sees of them: how far the
/// second class is above the first.
fn distance(a: &[Vec<f32>], b: &[Vec<f32>]) -> f64 {
    let margin = |logits: &Vec<f32>| f64::from(logits[1] - logits[0]);
    let pairs = a.iter().zip(b);
    pairs.map(|(a, b)| (margin(a) - margin(b)).powi(2)).sum::<f64>() / a.len() as f64
}

#[test]
fn a_student_comes_closer_to_its_teacher() {
    let (rows, teacher) = (rows(), build(&config(8, 2), 1));
    let frozen = network(&teacher, &NetworkOptions::frozen());
    let logits = evaluate(&frozen, &rows, 8).unwrap().logits;
    let start = build(&config(4, 1), 2);
    let mut student = network(&start, &NetworkOptions::default());
    let before = distance(&evaluate(&student, &rows, 8).unwrap().logits, &logits);
    let matches = vec![Match::Hidden {
        student: "encoder.layer.0.output.LayerNorm".to_owned(),
        teacher: "encoder.layer.1.output.LayerNorm".to_owned(),
        weight: 0.1,
        projected: false,
    }];
    let given = Teacher { logits: logits.clone(), network: Some(frozen) };
    let constant = Temperature::Constant { value: 2.0 };
    let mut objective =
        Distill::new(distillation(1.0), constant, given, &start, matches, 3).unwrap();
    fit(&mut student, &rows, None, &mut objective, &recipe(15), &mut Silent).unwrap();
    let after = distance(&evaluate(&student, &rows, 8).unwrap().logits, &logits);
    assert!(after < before / 2.0, "{before} {after}");
}

#[test]
fn a_scheduled_temperature_reaches_both_ends() {
    let (rows, graph) = (rows(), build(&config(4, 1), 2));
    let teacher = Teacher { logits: vec![vec![0.0; 2]; rows.len()], network: None };
    let schedule = Temperature::Schedule { from: 8.0, to: 2.0, shape: Shape::Linear };
    let mut objective =
        Distill::new(distillation(0.5), schedule, teacher, &graph, Vec::new(), 3).unwrap();
    let student = network(&graph, &NetworkOptions::default());
    let batch = rows.batch(&[0, 1, 2, 3]);
    for (index, total, expected) in [(0, 4, 8.0), (1, 4, 6.0), (3, 4, 2.0), (0, 1, 2.0)] {
        let step = Step { index, total, part: 0, epoch: 0, epochs: 1, dropout: 0.0, seed: 1 };
        let loss = objective.loss(&student, &batch, &step).unwrap();
        let (_, found) = loss.parts.into_iter().find(|(name, _)| name == "temperature").unwrap();
        let found = found.into_data().try_to_vec::<f32>().unwrap()[0];
        assert!((found - expected).abs() < 1e-5, "step {index} of {total}: {found}");
    }
}

#[test]
fn a_learned_temperature_moves_as_far_as_its_lambda_says() {
    let (rows, start) = (rows(), build(&config(4, 1), 2));
    let frozen = network(&build(&config(8, 2), 1), &NetworkOptions::frozen());
    let logits = evaluate(&frozen, &rows, 8).unwrap().logits;
    let moved = |max_lambda| {
        // Near the floor, where logits this small still depend on the temperature.
        let temperature =
            Temperature::Learned { floor: 1.0, span: 20.0, initial: -3.0, max_lambda };
        let teacher = Teacher { logits: logits.clone(), network: None };
        let mut objective =
            Distill::new(distillation(1.0), temperature, teacher, &start, Vec::new(), 3).unwrap();
        let mut student = network(&start, &NetworkOptions::default());
        fit(&mut student, &rows, None, &mut objective, &recipe(15), &mut Silent).unwrap();
        student.tensor("distill.temperature").unwrap().elements::<f32>().unwrap()[0] + 3.0
    };
    let (none, little, much) = (moved(0.0), moved(1.0), moved(8.0));
    assert_eq!(none, 0.0);
    assert!(little.abs() > 1e-4 && much / little > 4.0, "{little} {much}");
}

#[test]
fn what_cannot_be_matched_is_named() {
    let graph = build(&config(4, 1), 1);
    let pair = |name: &str| Match::Attention {
        student: name.to_owned(),
        teacher: "encoder.layer.0.attention.self.scores".to_owned(),
        weight: 1.0,
    };
    let check = |frozen: Option<Network>, name: &str, expected: &str| {
        let teacher = Teacher { logits: Vec::new(), network: frozen };
        let constant = Temperature::Constant { value: 2.0 };
        let made = Distill::new(distillation(0.5), constant, teacher, &graph, vec![pair(name)], 0);
        assert_eq!(made.unwrap_err().to_string(), expected);
    };
    let frozen = network(&graph, &NetworkOptions::frozen());
    check(Some(frozen), "nothing", "graph `bert` has no value `nothing` to match");
    check(
        None,
        "encoder.layer.0.attention.self.scores",
        "layers are matched, so the teacher itself is needed, not only its logits",
    );
}

#[test]
fn a_supernet_improves_its_subnetworks() {
    let (rows, whole) = (rows(), config(8, 2));
    let graph = build(&whole, 4);
    let logits: Vec<Vec<f32>> = rows
        .labels
        .iter()
        .map(|&label| if label == 1 { vec![-3.0, 3.0] } else { vec![3.0, -3.0] })
        .collect();
    let small = BertConfig { hidden: 4, ..config(8, 1) };
    let small = BertConfig { layers: vec![BertLayer { heads: 1, intermediate: 8 }], ..small };
    let subnetwork = |graph: &Graph| bert::subnetwork(graph, &whole, &small, &[1]).unwrap();
    let part = subnetwork(&graph);
    let choice = Subnetwork { slices: bert::weight_slices(&part, &[1]), graph: part };
    let mut objective = Supernet::new(
        distillation(1.0),
        1.0,
        logits.clone(),
        Box::new(move |_| Ok(vec![choice.clone()])),
    );
    let mut trained = network(&graph, &NetworkOptions::default());
    fit(&mut trained, &rows, None, &mut objective, &recipe(20), &mut Silent).unwrap();
    let loss = |graph: &Graph| {
        evaluate(&network(&subnetwork(graph), &NetworkOptions::frozen()), &rows, 8).unwrap().loss
    };
    let (before, after) = (loss(&graph), loss(&trained.graph()));
    assert!(after < before / 2.0, "{before} {after}");
}

#[test]
fn masking_hides_its_share_of_the_inner_word_pieces() {
    let ids: Vec<Vec<u32>> = (0..40).map(|row| vec![5; 20 + row]).collect();
    let rows = Examples { labels: vec![0; ids.len()], ids };
    let batch = rows.batch(&(0..40).collect::<Vec<_>>());
    let masking = Masking { share: 0.25, id: 9 };
    let masked = masking.apply(&batch, 1);
    assert_eq!(masked, masking.apply(&batch, 1));
    assert_ne!(masked, masking.apply(&batch, 2));
    let hidden = masked.ids.iter().filter(|&&id| id == 9).count();
    let share = hidden as f64 / batch.tokens() as f64;
    assert!((0.2..0.3).contains(&share), "{share}");
    for (row, ids) in masked.ids.chunks(batch.length).enumerate() {
        let length = 20 + row;
        assert_eq!((ids[0], ids[length - 1]), (5, 5), "the special pieces stay");
        assert!(ids[length..].iter().all(|&id| id == 0), "padding stays");
    }
}

#[test]
fn with_masked_texts_the_teacher_itself_answers() {
    let (rows, teacher) = (rows(), build(&config(8, 2), 1));
    let start = build(&config(8, 1), 2);
    let nobody = || Teacher { logits: vec![vec![0.0; 2]; rows.len()], network: None };
    let objective = |teacher| {
        let temperature = Temperature::Constant { value: 2.0 };
        Distill::new(distillation(1.0), temperature, teacher, &start, Vec::new(), 3).unwrap()
    };
    let masking = Masking { share: 0.3, id: 3 };
    assert!(objective(nobody()).with_masking(masking).is_err());

    // The stored logits are all alike and would teach nothing.
    let frozen = network(&teacher, &NetworkOptions::frozen());
    let answers = evaluate(&frozen, &rows, 8).unwrap().logits;
    let mut student = network(&start, &NetworkOptions::default());
    let before = distance(&evaluate(&student, &rows, 8).unwrap().logits, &answers);
    let given = Teacher { network: Some(frozen), ..nobody() };
    let mut objective = objective(given).with_masking(masking).unwrap();
    fit(&mut student, &rows, None, &mut objective, &recipe(15), &mut Silent).unwrap();
    let after = distance(&evaluate(&student, &rows, 8).unwrap().logits, &answers);
    assert!(after < before / 2.0, "{before} to {after}");
}

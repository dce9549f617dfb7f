//! The network that contains all candidates: the teacher, with what matters most in front.

use anyhow::{Result, ensure};
use engine::StageContext;
use graph::Graph;
use graph::bert::{self, BertConfig};
use graph::rewrite::importance::{descending, hidden};
use graph::rewrite::prune;
use rand::SeedableRng as _;
use rand::rngs::ChaCha8Rng;
use training::loss::{CrossEntropy, Distillation};
use training::objectives::{self, Subnetwork};
use training::{Device, Examples, Network, NetworkOptions, Recipe, Step};

use super::space::{Candidate, Space};
use crate::importance::Scores;
use crate::watch::{Rows, fit};

/// Temperature of the supernet's distillation (DynaBERT distils at 1; 2 softens two classes a bit).
const TEMPERATURE: f64 = 2.0;

/// Purpose of the random numbers that choose a step's subnetworks.
const CHOICE: u64 = 1;

/// A network whose leading slices are the candidates.
#[derive(Debug, Clone)]
pub(super) struct Supernet {
    /// With the present weights.
    pub(super) graph: Graph,
    /// Its sizes.
    pub(super) config: BertConfig,
    /// Whether its hidden dimensions are in another order than the teacher's.
    pub(super) reordered: bool,
}

/// The largest candidate of `space` cut out of the teacher, for texts of `max_length` word pieces.
/// What candidates differ in, hidden dimensions, heads and units, is put in order of importance
/// first: then a slice from the front is what matters most (DynaBERT, arXiv:2004.04037, §2.1).
pub(super) fn start(
    teacher: &Graph,
    max_length: usize,
    space: &Space,
    scores: &Scores,
) -> Result<Supernet> {
    let mut graph = teacher.clone();
    for (layer, scores) in scores.heads.iter().enumerate() {
        prune::keep_heads(&mut graph, layer, &descending(scores))?;
    }
    for (layer, scores) in scores.units.iter().enumerate() {
        prune::keep_units(&mut graph, layer, &descending(scores))?;
    }
    let largest = space.largest();
    let whole = BertConfig::of(&graph)?;
    let reordered = space.smallest().hidden < whole.hidden;
    if reordered {
        let order = descending(&hidden(&graph)?);
        prune::keep_hidden(&mut graph, &order)?;
    }
    let fits = largest.hidden <= whole.hidden
        && largest.layers.len() <= whole.layers.len()
        && whole.layers.iter().all(|layer| {
            largest
                .layers
                .iter()
                .all(|l| l.heads <= layer.heads && l.intermediate <= layer.intermediate)
        });
    ensure!(
        fits,
        "`space` is larger than the teacher, which has {} layers, {} hidden dimensions, {} heads and {} units a layer",
        whole.layers.len(),
        whole.hidden,
        whole.layers[0].heads,
        whole.layers[0].intermediate
    );
    let positions = whole.positions.min(max_length);
    let config = sized(&BertConfig { positions, ..whole.clone() }, &largest);
    let layers = bert::choose_layers(whole.layers.len(), largest.layers.len())?;
    let graph = bert::subnetwork(&graph, &whole, &config, &layers)?;
    Ok(Supernet { graph, config, reordered })
}

/// `base` with the candidate's sizes.
fn sized(base: &BertConfig, candidate: &Candidate) -> BertConfig {
    let layers = candidate.layers.iter().map(|&layer| layer.into()).collect();
    BertConfig { hidden: candidate.hidden, layers, ..base.clone() }
}

impl Supernet {
    /// The configuration of a candidate.
    pub(super) fn config_of(&self, candidate: &Candidate) -> BertConfig {
        sized(&self.config, candidate)
    }

    /// The supernet's layers that a candidate is made of.
    pub(super) fn layers_of(&self, candidate: &Candidate) -> Result<Vec<usize>> {
        Ok(bert::choose_layers(self.config.layers.len(), candidate.layers.len())?)
    }

    /// The candidate's graph, with its slices of the supernet's weights.
    pub(super) fn subnetwork(&self, candidate: &Candidate) -> Result<Graph> {
        let layers = self.layers_of(candidate)?;
        Ok(bert::subnetwork(&self.graph, &self.config, &self.config_of(candidate), &layers)?)
    }
}

/// How a supernet is trained.
pub(super) struct SupernetTraining<'a> {
    pub(super) space: &'a Space,
    pub(super) random_subnetworks: usize,
    pub(super) alpha: f64,
    pub(super) logits: Vec<Vec<f32>>,
    pub(super) recipe: Recipe,
}

impl SupernetTraining<'_> {
    /// Trains the supernet by the sandwich rule, towards the teacher's logits.
    pub(super) fn run(
        self,
        supernet: &mut Supernet,
        train: &Examples,
        device: &Device,
        context: &StageContext,
    ) -> Result<()> {
        let mut network = Network::new(&supernet.graph, device, &NetworkOptions::default())?;
        let chooser = Chooser {
            space: self.space.clone(),
            random: self.random_subnetworks,
            smallest: cut(supernet, &self.space.smallest())?,
            supernet: supernet.clone(),
        };
        let distillation = Distillation { alpha: self.alpha as f32, hard: CrossEntropy::default() };
        let mut objective =
            objectives::Supernet::new(distillation, TEMPERATURE, self.logits, chooser.into_fn());
        let rows = Rows { train, validation: None };
        fit(context, "supernet", &mut network, rows, &mut objective, &self.recipe)?;
        supernet.graph = network.graph();
        Ok(())
    }
}

/// Chooses each step's subnetworks: the smallest and some at random.
struct Chooser {
    space: Space,
    random: usize,
    /// The only one that every step has. Random ones hardly repeat, and each holds its weights.
    smallest: Subnetwork,
    supernet: Supernet,
}

impl Chooser {
    fn into_fn(self) -> objectives::Choose {
        Box::new(move |step| self.choose(step))
    }

    fn choose(&self, step: &Step) -> Result<Vec<Subnetwork>> {
        let mut rng = ChaCha8Rng::seed_from_u64(step.random_seed(CHOICE));
        let random = (0..self.random).map(|_| cut(&self.supernet, &self.space.random(&mut rng)));
        std::iter::once(Ok(self.smallest.clone())).chain(random).collect()
    }
}

/// The candidate's graph and where its weights come from.
fn cut(supernet: &Supernet, candidate: &Candidate) -> Result<Subnetwork> {
    let graph = supernet.subnetwork(candidate)?;
    let slices = bert::weight_slices(&graph, &supernet.layers_of(candidate)?);
    Ok(Subnetwork { graph, slices })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::importance;
    use graph::bert::BertLayer;
    use graph::{Tensor, reference};

    fn logits(graph: &Graph) -> Vec<f32> {
        let ids = Tensor::new(&[1, 5], vec![1i64, 7, 12, 3, 2]).unwrap();
        let inputs = [("input_ids", ids), ("attention_mask", Tensor::from_fn(&[1, 5], |_| 1i64))];
        reference::evaluate(graph, &inputs).unwrap()[0].elements::<f32>().unwrap().to_vec()
    }

    #[test]
    fn the_whole_supernet_answers_like_its_teacher() {
        let layer = BertLayer { heads: 2, intermediate: 8 };
        let config = BertConfig { positions: 16, ..BertConfig::uniform(20, 8, 2, layer) };
        let teacher = bert::build(&config, &mut bert::initial_weights(1)).unwrap();
        let scores = importance::l1(&teacher).unwrap();
        for (hidden, reordered) in [(vec![8], false), (vec![4, 8], true)] {
            let space: Space = serde_json::from_value(serde_json::json!({
                "layers": [1, 2], "heads": [1, 2], "intermediate": [4, 8], "hidden": hidden
            }))
            .unwrap();
            let supernet = start(&teacher, 6, &space, &scores).unwrap();
            assert_eq!((supernet.reordered, supernet.config.positions), (reordered, 6));
            for (found, expected) in logits(&supernet.graph).iter().zip(logits(&teacher)) {
                assert!((found - expected).abs() < 1e-5, "{found} {expected}");
            }
        }
    }
}

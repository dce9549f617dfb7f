use super::*;
use crate::bert::{BertLayer, Pooling};
use crate::rewrite::{prune, samples};

fn small() -> (BertConfig, [usize; 2]) {
    let config = samples::config();
    let layers =
        vec![BertLayer { heads: 1, intermediate: 5 }, BertLayer { heads: 2, intermediate: 2 }];
    (BertConfig { vocabulary_size: 9, positions: 6, hidden: 3, layers, ..config }, [0, 2])
}

#[test]
fn a_subnetwork_is_what_pruning_leaves() {
    let (config, layers) = small();
    let supernet = samples::bert();
    let found = subnetwork(&supernet, &samples::config(), &config, &layers).unwrap();
    assert_eq!(BertConfig::of(&found).unwrap(), config);
    let mut pruned = supernet;
    prune::drop_layers(&mut pruned, &[1]).unwrap();
    prune::keep_heads(&mut pruned, 0, &[0]).unwrap();
    prune::keep_units(&mut pruned, 0, &[0, 1, 2, 3, 4]).unwrap();
    prune::keep_units(&mut pruned, 1, &[0, 1]).unwrap();
    prune::keep_hidden(&mut pruned, &[0, 1, 2]).unwrap();
    prune::keep_vocabulary(&mut pruned, &[0, 1, 2, 3, 4, 5, 6, 7, 8]).unwrap();
    assert_eq!(samples::logits(&found), samples::logits(&pruned));
}

#[test]
fn layers_count_by_position_where_others_were_removed() {
    let mut supernet = samples::bert();
    prune::drop_layers(&mut supernet, &[1]).unwrap();
    let whole = BertConfig::of(&supernet).unwrap();
    let found = subnetwork(&supernet, &whole, &whole, &[0, 1]).unwrap();
    assert_eq!(samples::logits(&found), samples::logits(&supernet));
    let last = BertConfig { layers: vec![whole.layers[1]], ..whole.clone() };
    let found = subnetwork(&supernet, &whole, &last, &[1]).unwrap();
    let mut pruned = samples::bert();
    prune::drop_layers(&mut pruned, &[0, 1]).unwrap();
    assert_eq!(samples::logits(&found), samples::logits(&pruned));
}

#[test]
fn the_whole_supernet_is_its_own_subnetwork() {
    for pooling in [Pooling::Mean, Pooling::Cls] {
        let config = BertConfig { pooling, ..samples::config() };
        let supernet = samples::build(&config);
        assert!(subnetwork(&supernet, &config, &config, &[0, 1, 2]).unwrap() == supernet);
    }
}

#[test]
fn slices_name_source_and_sizes_of_every_weight() {
    let (config, layers) = small();
    let supernet = samples::bert();
    let graph = subnetwork(&supernet, &samples::config(), &config, &layers).unwrap();
    let slices = weight_slices(&graph, &layers);
    assert_eq!(slices.len(), graph.weights().count());
    let up = slices.iter().find(|x| x.name == "encoder.layer.1.intermediate.dense.weight").unwrap();
    assert_eq!(up.source, "encoder.layer.2.intermediate.dense.weight");
    assert_eq!(up.sizes, [3, 2]);
    for slice in &slices {
        let source = supernet.weight(supernet.find(&slice.source).unwrap()).unwrap();
        let mut leading = source.clone();
        for (axis, &size) in slice.sizes.iter().enumerate() {
            leading = leading.select(axis, &(0..size).collect::<Vec<_>>());
        }
        assert_eq!(
            graph.weight(graph.find(&slice.name).unwrap()),
            Some(&leading),
            "{}",
            slice.name
        );
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let (config, layers) = small();
    let check = |config: BertConfig, layers: &[usize], expected: &str| {
        let error = subnetwork(&samples::bert(), &samples::config(), &config, layers).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    };
    check(config.clone(), &[0], "expected 2 ascending layers of the supernet's 3, found [0]");
    check(config.clone(), &[2, 0], "ascending");
    check(config.clone(), &[0, 3], "ascending");
    let wide = BertConfig { hidden: 5, ..config.clone() };
    check(wide, &layers, "hidden width: expected 1 to 4, as the supernet has, found 5");
    let other = BertConfig { head_size: 1, ..config.clone() };
    check(other, &layers, "parts that cannot be sliced: expected head size 2");
    check(BertConfig { labels: 3, ..config }, &layers, "parts that cannot be sliced");
}

#[test]
fn chosen_layers_are_spread_and_end_with_the_last() {
    let check = |n_teacher, n_student, expected: &[usize]| {
        assert_eq!(choose_layers(n_teacher, n_student).unwrap(), expected);
    };
    check(6, 3, &[1, 3, 5]);
    check(6, 6, &[0, 1, 2, 3, 4, 5]);
    check(6, 4, &[0, 2, 3, 5]);
    check(12, 1, &[11]);
    assert!(choose_layers(6, 0).is_err());
    assert!(choose_layers(6, 7).is_err());
}

use std::collections::BTreeSet;

use serde_json::json;

use super::*;

fn space(dimensions: &Value) -> Space {
    serde_json::from_value(json!({ "dimensions": dimensions })).unwrap()
}

/// With something of everything.
fn mixed() -> Space {
    space(&json!([
        {"name": "kind", "domain": {"choice": ["a", "b"]}},
        {"name": "rate", "domain": {"log-uniform": {"low": 1e-4, "high": 1.0}}},
        {"name": "depth", "domain": {"int": {"low": 1, "high": 4}}, "condition": {"dimension": "kind", "any-of": ["a"]}},
        {"name": "width", "domain": {"int": {"low": 16, "high": 256, "log": true}}, "condition": {"dimension": "kind", "any-of": ["b"]}},
        {"name": "share", "domain": {"uniform": {"low": 0.0, "high": 1.0, "step": 0.25}}},
        {"name": "alone", "domain": {"choice": [7]}},
    ]))
}

fn all(sampler: &Sampler, space: &Space) -> Vec<Params> {
    let ask = |number| sampler.ask(&Ask { space, seed: 1, number, history: &[] }).unwrap();
    (0..).map_while(ask).map(|proposal| proposal.params).collect()
}

/// A run in which trials pause, fail, are slow and break constraints.
fn eventful(sampler: &Sampler, space: &Space, n_trials: u64, n_objectives: usize) -> Vec<Params> {
    let mut history: Vec<Observation> = Vec::new();
    for number in 0..n_trials {
        let ask = Ask { space, seed: 5, number, history: &history };
        let params = sampler.ask(&ask).unwrap().unwrap().params;
        let rate = params["rate"].as_f64().unwrap();
        let share = params["share"].as_f64().unwrap();
        let mut objectives = vec![(rate - 0.01).abs() + share, 1.0 - share];
        objectives.truncate(n_objectives);
        let outcome = match number % 11 {
            3 => Outcome::Failed,
            5 => Outcome::Paused { rung: number as usize % 3, objectives },
            7 => Outcome::Done { objectives, violation: rate },
            9 if number % 2 == 0 => Outcome::Pending,
            10 => Outcome::Done { objectives: vec![f64::NAN; n_objectives], violation: 0.0 },
            _ => Outcome::Done { objectives, violation: 0.0 },
        };
        history.push(Observation { params, outcome });
    }
    history.into_iter().map(|observation| observation.params).collect()
}

fn that_go_on() -> [Sampler; 5] {
    let small = Nsga2Options { population_size: 8, ..Nsga2Options::default() };
    let sbx = Nsga2Options { crossover: Crossover::Sbx, ..small.clone() };
    let alone = TpeOptions { multivariate: false, constant_liar: false, ..TpeOptions::default() };
    [
        Sampler::Random,
        Sampler::Tpe(TpeOptions::default()),
        Sampler::Tpe(alone),
        Sampler::Nsga2(small),
        Sampler::Nsga2(sbx),
    ]
}

#[test]
fn points_are_in_the_space() {
    let space = mixed();
    for sampler in that_go_on() {
        for n_objectives in [1, 2] {
            for params in eventful(&sampler, &space, 60, n_objectives) {
                let known = space.dimensions.iter().filter(|dimension| {
                    let number = dimension.number_in(&params);
                    assert_eq!(number.is_some(), dimension.counts(&params), "{params:?}");
                    number.is_some()
                });
                assert_eq!(known.count(), params.len(), "{sampler:?}: {params:?}");
            }
        }
    }
}

#[test]
fn the_same_history_gives_the_same_point() {
    let space = mixed();
    for sampler in that_go_on() {
        let once = eventful(&sampler, &space, 40, 2);
        assert_eq!(once, eventful(&sampler, &space, 40, 2), "{sampler:?}");
        let text = serde_json::to_string(&once).unwrap();
        assert_eq!(serde_json::from_str::<Vec<Params>>(&text).unwrap(), once, "{sampler:?}");
        let distinct: BTreeSet<String> = once.iter().map(|params| format!("{params:?}")).collect();
        assert!(distinct.len() > 20, "{sampler:?}: {}", distinct.len());
    }
}

/// What a seed means is part of the interface: sweeps go on with later versions.
#[test]
fn draws_do_not_change() {
    let space = space(&json!([{"name": "x", "domain": {"uniform": {"low": 0.0, "high": 1.0}}}]));
    let drawn = [(1, 0), (1, 1), (2, 0)].map(|(seed, number)| {
        let ask = Ask { space: &space, seed, number, history: &[] };
        Sampler::Random.ask(&ask).unwrap().unwrap().params["x"].as_f64().unwrap()
    });
    assert_eq!(drawn, [0.40248566366484806, 0.8519121608441852, 0.8813407293505765]);
}

#[test]
fn a_proposal_says_what_it_was_drawn_from() {
    let space = mixed();
    let tpe = Sampler::named("tpe").unwrap();
    let first = tpe.ask(&Ask { space: &space, seed: 3, number: 0, history: &[] }).unwrap().unwrap();
    assert_eq!(first.state, json!({"sampler": "tpe", "seed": 3, "number": 0, "startup": true}));
    let history: Vec<Observation> = (0..10)
        .map(|number| {
            let ask = Ask { space: &space, seed: 3, number, history: &[] };
            let params = tpe.ask(&ask).unwrap().unwrap().params;
            let outcome = Outcome::Done { objectives: vec![10.0 - number as f64], violation: 0.0 };
            Observation { params, outcome }
        })
        .collect();
    let ask = Ask { space: &space, seed: 3, number: 10, history: &history };
    let state = tpe.ask(&ask).unwrap().unwrap().state;
    assert_eq!((&state["good"], &state["n_bad"]), (&json!([9]), &json!(9)));
}

#[test]
fn a_grid_has_every_point_once() {
    let space = space(&json!([
        {"name": "depth", "domain": {"int": {"low": 1, "high": 3}}, "condition": {"dimension": "kind", "any-of": ["a"]}},
        {"name": "kind", "domain": {"choice": ["a", "b"]}},
        {"name": "share", "domain": {"uniform": {"low": 0.0, "high": 0.5, "step": 0.5}}},
    ]));
    assert_eq!(Sampler::Grid.total(&space), Ok(Some(8)));
    let shown: Vec<String> = all(&Sampler::Grid, &space)
        .iter()
        .map(|params| serde_json::to_string(params).unwrap())
        .collect();
    assert_eq!(
        shown,
        [
            r#"{"depth":1,"kind":"a","share":0.0}"#,
            r#"{"depth":1,"kind":"a","share":0.5}"#,
            r#"{"depth":2,"kind":"a","share":0.0}"#,
            r#"{"depth":2,"kind":"a","share":0.5}"#,
            r#"{"depth":3,"kind":"a","share":0.0}"#,
            r#"{"depth":3,"kind":"a","share":0.5}"#,
            r#"{"kind":"b","share":0.0}"#,
            r#"{"kind":"b","share":0.5}"#,
        ]
    );
}

#[test]
fn a_zip_goes_through_its_lists_side_by_side() {
    let space = space(&json!([
        {"name": "rate", "domain": {"choice": [0.1, 0.1, 0.2]}},
        {"name": "epochs", "domain": {"int": {"low": 1, "high": 3}}},
    ]));
    let shown: Vec<String> = all(&Sampler::Zip, &space)
        .iter()
        .map(|params| serde_json::to_string(params).unwrap())
        .collect();
    assert_eq!(
        shown,
        [r#"{"epochs":1,"rate":0.1}"#, r#"{"epochs":2,"rate":0.1}"#, r#"{"epochs":3,"rate":0.2}"#,]
    );
}

#[test]
fn samplers_say_what_they_cannot_sample() {
    let continuum = json!([{"name": "a", "domain": {"uniform": {"low": 0.0, "high": 1.0}}}]);
    let twice = json!([{"name": "a", "domain": {"choice": [1, 2, 1]}}]);
    let uneven = json!([{"name": "a", "domain": {"choice": [1, 2]}}, {"name": "b", "domain": {"choice": [1]}}]);
    let conditional = json!([
        {"name": "a", "domain": {"choice": [1]}},
        {"name": "b", "domain": {"choice": [1]}, "condition": {"dimension": "a", "any-of": [1]}},
    ]);
    let large: Vec<Value> = (0..5)
        .map(|index| json!({"name": format!("{index}"), "domain": {"int": {"low": 0, "high": 99_999}}}))
        .collect();
    let options = |options: &str| serde_json::from_str::<Sampler>(options).unwrap();
    let named = |name: &str| Sampler::named(name).unwrap();
    for (sampler, dimensions, expected) in [
        (
            named("grid"),
            &continuum,
            "`a`: `grid` needs values it can count: a `choice`, an `int` or a `step`",
        ),
        (
            named("zip"),
            &continuum,
            "`a`: `zip` needs values it can count: a `choice`, an `int` or a `step`",
        ),
        (named("tpe"), &twice, "`a`: 1 is there twice"),
        (named("zip"), &uneven, "`b`: `zip` needs lists of one length: found 1 values, `a` has 2"),
        (named("zip"), &conditional, "`b`: `zip` takes no conditions"),
        (named("grid"), &Value::from(large), "expected a grid of at most 2^64 points"),
        (named("random"), &json!([]), "expected at least one dimension"),
        (
            options(r#"{"tpe": {"n-ei-candidates": 0}}"#),
            &continuum,
            "`n-ei-candidates`: expected at least 1, found 0",
        ),
        (
            options(r#"{"nsga2": {"population-size": 1}}"#),
            &continuum,
            "`population-size`: expected at least 2, found 1",
        ),
        (
            options(r#"{"nsga2": {"mutation-probability": 1.5}}"#),
            &continuum,
            "`mutation-probability`: expected a number from 0 to 1, found 1.5",
        ),
    ] {
        assert_eq!(sampler.check(&space(dimensions)).unwrap_err().to_string(), expected);
    }
}

#[test]
fn a_sampler_is_its_name_or_a_table() {
    for (text, expected) in [
        ("sampler = 'grid'", Sampler::Grid),
        ("sampler = 'tpe'", Sampler::Tpe(TpeOptions::default())),
        (
            "sampler = { tpe = { n-startup-trials = 3 } }",
            Sampler::Tpe(TpeOptions { n_startup_trials: 3, ..TpeOptions::default() }),
        ),
        (
            "[sampler.nsga2]\ncrossover = 'sbx'",
            Sampler::Nsga2(Nsga2Options { crossover: Crossover::Sbx, ..Nsga2Options::default() }),
        ),
    ] {
        let mut table: std::collections::BTreeMap<String, Sampler> = toml::from_str(text).unwrap();
        let sampler = table.remove("sampler").unwrap();
        assert_eq!(sampler, expected);
        let written = serde_json::to_string(&sampler).unwrap();
        assert_eq!(serde_json::from_str::<Sampler>(&written).unwrap(), expected);
    }
    for (text, part) in [
        ("sampler = 'tpa'", "unknown variant `tpa`"),
        ("sampler = { tpe = { startup = 3 } }", "unknown field `startup`"),
        ("sampler = 3", "expected the name of a sampler"),
    ] {
        let error =
            toml::from_str::<std::collections::BTreeMap<String, Sampler>>(text).unwrap_err();
        let message = error.to_string();
        assert!(message.contains(part) && message.contains("line 1"), "{message}");
    }
}

use serde_json::json;

use super::*;

fn space(dimensions: &Value) -> Space {
    serde_json::from_value(json!({ "dimensions": dimensions })).unwrap()
}

#[test]
fn every_mistake_has_its_message() {
    for (dimensions, expected) in [
        (json!([]), "expected at least one dimension"),
        (
            json!([{"name": "a", "domain": {"choice": [1]}}, {"name": "a", "domain": {"choice": [1]}}]),
            "`a`: there are two dimensions of this name",
        ),
        (json!([{"name": "a", "domain": {"choice": []}}]), "`a`: expected at least one choice"),
        (
            json!([{"name": "a", "domain": {"uniform": {"low": 1.0, "high": 1.0}}}]),
            "`a`: expected low < high, found 1 and 1",
        ),
        (
            json!([{"name": "a", "domain": {"log-uniform": {"low": 0.0, "high": 1.0}}}]),
            "`a`: expected low > 0 on a logarithmic scale, found 0",
        ),
        (
            json!([{"name": "a", "domain": {"int": {"low": -1, "high": 8, "log": true}}}]),
            "`a`: expected low > 0 on a logarithmic scale, found -1",
        ),
        (
            json!([{"name": "a", "domain": {"int": {"low": 0, "high": 9_007_199_254_740_993_i64}}}]),
            "`a`: expected bounds within ±2^53",
        ),
        (
            json!([{"name": "a", "domain": {"uniform": {"low": 0.0, "high": 1.0, "step": 2.0}}}]),
            "`a`: expected a step > 0 and ≤ high − low, found 2",
        ),
        (
            json!([{"name": "a", "domain": {"int": {"low": 1, "high": 8, "step": 0}}}]),
            "`a`: expected a step > 0 and ≤ high − low, found 0",
        ),
        (
            json!([{"name": "a", "domain": {"int": {"low": 1, "high": 8, "log": true, "step": 2}}}]),
            "`a`: a logarithmic scale has no step",
        ),
        (
            json!([{"name": "a", "domain": {"choice": [1]}, "condition": {"dimension": "b", "any-of": [1]}}]),
            "`a`: counts only with `b`, which is no dimension",
        ),
        (
            json!([
                {"name": "a", "domain": {"choice": [1]}, "condition": {"dimension": "b", "any-of": [1]}},
                {"name": "b", "domain": {"int": {"low": 1, "high": 2}}},
            ]),
            "`a`: counts only with `b`, which is no `choice`",
        ),
        (
            json!([
                {"name": "a", "domain": {"choice": [1]}, "condition": {"dimension": "b", "any-of": [2]}},
                {"name": "b", "domain": {"choice": [1]}},
            ]),
            "`a`: counts only where `b` is 2, which is not among its choices",
        ),
        (
            json!([
                {"name": "a", "domain": {"choice": [1]}, "condition": {"dimension": "b", "any-of": []}},
                {"name": "b", "domain": {"choice": [1]}},
            ]),
            "`a`: expected at least one value in `any-of`",
        ),
    ] {
        let problems = space(&dimensions).problems();
        let messages: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(messages, [expected]);
        assert_eq!(space(&dimensions).check(), Err(problems[0].clone()));
    }
}

#[test]
fn a_circle_of_conditions_is_a_mistake_of_each() {
    let on = |name: &str, other: &str| json!({"name": name, "domain": {"choice": [1]}, "condition": {"dimension": other, "any-of": [1]}});
    let messages = |dimensions: Value| -> Vec<String> {
        space(&dimensions).problems().iter().map(ToString::to_string).collect()
    };
    assert_eq!(
        messages(json!([on("a", "b"), on("b", "a")])),
        ["`a`: whether it counts depends on itself", "`b`: whether it counts depends on itself"]
    );
    assert_eq!(messages(json!([on("a", "a")])), ["`a`: whether it counts depends on itself"]);
    let behind =
        json!([on("x", "a"), on("a", "b"), on("b", "c"), {"name": "c", "domain": {"choice": [1]}}]);
    assert!(messages(behind).is_empty());
}

#[test]
fn dimensions_come_after_what_they_depend_on() {
    let space = space(&json!([
        {"name": "deepest", "domain": {"choice": [1]}, "condition": {"dimension": "deep", "any-of": [true]}},
        {"name": "deep", "domain": {"choice": [true, false]}, "condition": {"dimension": "top", "any-of": ["x", "y"]}},
        {"name": "free", "domain": {"choice": [1]}},
        {"name": "top", "domain": {"choice": ["x", "y", "z"]}},
    ]));
    space.check().unwrap();
    assert_eq!(space.order(), [2, 3, 1, 0]);
    for (choices, expected) in [
        ([0, 1, 0, 2], vec!["free", "top"]),
        ([0, 1, 0, 1], vec!["deep", "free", "top"]),
        ([0, 0, 0, 0], vec!["deep", "deepest", "free", "top"]),
    ] {
        let params = space.assemble(|index, dimension| dimension.domain.nth(choices[index]));
        assert_eq!(params.keys().collect::<Vec<_>>(), expected);
    }
}

#[test]
fn values_and_numbers_stand_for_each_other() {
    for (domain, size, number, value) in [
        (json!({"choice": [[0, 1], "x", {"a": 1.5}]}), Some(3), 2.0, json!({"a": 1.5})),
        (json!({"uniform": {"low": 0.0, "high": 1.0}}), None, 0.1, json!(0.1)),
        (json!({"uniform": {"low": 0.0, "high": 1.0, "step": 0.1}}), Some(11), 0.3, json!(0.3)),
        (json!({"uniform": {"low": 0.0, "high": 1.0, "step": 0.4}}), Some(3), 0.8, json!(0.8)),
        (json!({"log-uniform": {"low": 1e-5, "high": 1.0}}), None, 1e-3, json!(1e-3)),
        (json!({"int": {"low": -2, "high": 4}}), Some(7), -1.0, json!(-1)),
        (json!({"int": {"low": 1, "high": 9, "step": 3}}), Some(3), 7.0, json!(7)),
        (json!({"int": {"low": 1, "high": 100, "log": true}}), Some(100), 10.0, json!(10)),
    ] {
        let domain: Domain = serde_json::from_value(domain).unwrap();
        assert_eq!(domain.size(), size, "{domain:?}");
        assert_eq!(domain.number(&value), Some(number), "{domain:?}");
        assert_eq!(domain.value(number), value, "{domain:?}");
        assert_eq!(domain.number(&json!("elsewhere")), None, "{domain:?}");
        if let Some(size) = size {
            let all: Vec<Value> = (0..size).map(|index| domain.nth(index)).collect();
            assert!(all.contains(&value), "{domain:?}: {all:?}");
            let read: Vec<Value> =
                serde_json::from_str(&serde_json::to_string(&all).unwrap()).unwrap();
            assert_eq!(read, all);
        }
    }
    let domain: Domain =
        serde_json::from_value(json!({"int": {"low": 1, "high": 9, "step": 3}})).unwrap();
    for (number, value) in [(-5.0, 1), (2.4, 1), (2.6, 4), (99.0, 7)] {
        assert_eq!(domain.value(number), json!(value), "{number}");
    }
    assert_eq!(domain.number(&json!(8)), None, "beyond the last step");
}

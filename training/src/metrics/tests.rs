use super::*;

/// Accepts rounding of `f64` arithmetic.
fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-12, "expected {expected}, found {found}");
}

#[test]
fn classification_of_a_hand_computed_table() {
    let labels = [0, 0, 0, 0, 1, 1, 1, 2, 2, 2];
    let predictions = [0, 0, 0, 1, 1, 1, 0, 2, 2, 0];
    let confusion = Confusion::new(&labels, &predictions, 3).unwrap();
    assert_eq!(confusion.counts, [[3, 1, 0], [1, 2, 0], [1, 0, 2]]);
    close(confusion.accuracy(), 0.7);
    let classes = confusion.classes();
    let expected = [
        (3.0 / 5.0, 3.0 / 4.0, 2.0 / 3.0, 4),
        (2.0 / 3.0, 2.0 / 3.0, 2.0 / 3.0, 3),
        (1.0, 2.0 / 3.0, 0.8, 3),
    ];
    for (class, (precision, recall, f1, support)) in classes.iter().zip(expected) {
        close(class.precision, precision);
        close(class.recall, recall);
        close(class.f1, f1);
        assert_eq!(class.support, support);
    }
    close(confusion.macro_f1(), (2.0 / 3.0 + 2.0 / 3.0 + 0.8) / 3.0);
}

#[test]
fn a_class_that_is_never_predicted_counts_as_zero() {
    let confusion = Confusion::new(&[0, 0, 1], &[0, 0, 0], 2).unwrap();
    assert_eq!(
        confusion.classes()[1],
        ClassMetrics { precision: 0.0, recall: 0.0, f1: 0.0, support: 1 }
    );
    close(confusion.macro_f1(), 0.4);
}

#[test]
fn logits_become_metrics() {
    let logits = [vec![2.0, 0.0], vec![0.0, 0.0], vec![-1.0, 3.0]];
    let found = Classification::from_logits(&logits, &[0, 1, 1], 2).unwrap();
    close(found.accuracy, 2.0 / 3.0);
    let expected = ((1.0 + (-2f64).exp()).ln() + 2f64.ln() + (1.0 + (-4f64).exp()).ln()) / 3.0;
    close(found.cross_entropy, expected);
    assert_eq!((found.n_rows, argmax(&[1.0, 1.0])), (3, 0));
}

#[test]
fn large_logits_do_not_overflow() {
    let found = Classification::from_logits(&[vec![3e38, -3e38]], &[0], 2).unwrap();
    assert_eq!(found.cross_entropy, 0.0);
}

#[test]
fn what_cannot_be_measured_is_an_error() {
    let check = |logits: &[Vec<f32>], labels: &[usize], expected: MetricError| {
        assert_eq!(Classification::from_logits(logits, labels, 2).unwrap_err(), expected);
    };
    check(&[], &[], MetricError::Empty);
    check(&[vec![0.0, 1.0]], &[0, 1], MetricError::Length { predictions: 1, labels: 2 });
    check(&[vec![0.0]], &[0], MetricError::Width { row: 0, expected: 2, found: 1 });
    check(&[vec![0.0, 1.0]], &[2], MetricError::Class { row: 0, n_classes: 2, found: 2 });
    let infinite = MetricError::NotFinite { row: 0, value: f32::INFINITY };
    check(&[vec![0.0, f32::INFINITY]], &[1], infinite);
}

#[test]
fn intervals_are_reproducible_and_as_wide_as_theory_says() {
    let right: Vec<bool> = (0..1_000).map(|row| row % 5 != 0).collect();
    let accuracy =
        |rows: &[usize]| rows.iter().filter(|&&row| right[row]).count() as f64 / rows.len() as f64;
    let found = bootstrap(right.len(), 7, accuracy).unwrap();
    assert_eq!(found, bootstrap(right.len(), 7, accuracy).unwrap());
    assert_ne!(found, bootstrap(right.len(), 8, accuracy).unwrap());
    close(found.value, 0.8);
    // Normal approximation ± 1.96·√(0.8·0.2/1000) = ± 0.0248; a percentile of 2,000 resamples is
    // itself uncertain by about 4 % of that, and steps by 0.001.
    for (found, expected) in [(found.low, 0.8 - 0.0248), (found.high, 0.8 + 0.0248)] {
        assert!((found - expected).abs() < 0.004, "expected about {expected}, found {found}");
    }
}

#[test]
fn pairing_cancels_what_both_models_share() {
    let a: Vec<bool> = (0..400).map(|row| row % 2 == 0).collect();
    let same = paired_difference(&a, &a, 1).unwrap();
    assert_eq!(same, Interval { value: 0.0, low: 0.0, high: 0.0 });
    let b: Vec<bool> = (0..400).map(|row| row % 2 == 0 && row % 40 != 0).collect();
    let found = paired_difference(&a, &b, 1).unwrap();
    close(found.value, 0.025);
    assert!(found.low > 0.0 && found.high < 0.05, "{found:?}");
    let reversed = paired_difference(&b, &a, 1).unwrap();
    close(reversed.value, -found.value);
}

#[test]
fn intervals_of_predictions_surround_their_values() {
    let labels: Vec<usize> = (0..300).map(|row| row % 3).collect();
    let predictions: Vec<usize> =
        (0..300).map(|row| if row % 7 == 0 { 0 } else { row % 3 }).collect();
    let found = Intervals::of_predictions(&labels, &predictions, 3, 5).unwrap();
    let confusion = Confusion::new(&labels, &predictions, 3).unwrap();
    close(found.accuracy.value, confusion.accuracy());
    close(found.macro_f1.value, confusion.macro_f1());
    for interval in [found.accuracy, found.macro_f1] {
        assert!(interval.low < interval.value && interval.value < interval.high, "{interval:?}");
    }
}

#[test]
fn mcnemar_by_hand() {
    let check = |a_only: usize, b_only: usize, expected: f64| {
        let mut pairs = vec![(true, true); 3];
        pairs.extend(vec![(true, false); a_only]);
        pairs.extend(vec![(false, true); b_only]);
        let (a, b): (Vec<bool>, Vec<bool>) = pairs.into_iter().unzip();
        close(mcnemar(&a, &b).unwrap(), expected);
        close(mcnemar(&b, &a).unwrap(), expected);
    };
    check(0, 0, 1.0);
    check(1, 1, 1.0);
    check(5, 0, 2.0 / 32.0);
    // 2 · (1 + 10 + 45) / 2^10
    check(8, 2, 112.0 / 1024.0);
    // The tail of a thousand tosses' middle is about one half: no underflow.
    let even: Vec<bool> = (0..2_400).map(|row| row % 2 == 0).collect();
    let odd: Vec<bool> = even.iter().map(|right| !right).collect();
    assert_eq!(mcnemar(&even, &odd).unwrap(), 1.0);
}

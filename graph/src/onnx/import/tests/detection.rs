//! Boxes, regions and grids, with their older forms and defaults.

use super::models::{floats, import, int, model, node, typed, with};
use super::operators::text;
use crate::onnx::proto::Model;
use crate::{Dim, Tensor, dim, onnx, reference};

fn evaluate(model: &Model, inputs: &[(&'static str, Tensor)]) -> Vec<f32> {
    let graph = import(model).unwrap();
    let y = reference::evaluate(&graph, inputs).unwrap().remove(0);
    let bytes = onnx::export(&graph).unwrap();
    let back = onnx::import_bytes(&bytes, None, &onnx::ImportOptions::default()).unwrap();
    assert_eq!(reference::evaluate(&back, inputs).unwrap(), std::slice::from_ref(&y));
    match y.elements::<i64>() {
        Ok(places) => places.iter().map(|&place| place as f32).collect(),
        Err(_) => y.elements::<f32>().unwrap().to_vec(),
    }
}

#[test]
fn how_many_boxes_stay_is_known_at_a_run() {
    let boxes = |inputs: &[&str]| {
        let kept = node("NonMaxSuppression", inputs, &["y"]);
        let given = vec![typed("boxes", 1, &[1, 2, 4]), typed("scores", 1, &[1, 1, 2])];
        let mut model = model(given, vec![kept], &["y"]);
        let mut most = floats("most", &[1], &[]);
        (most.data_type, most.int64_data) = (Some(7), vec![2]);
        let least = floats("least", &[1], &[0.5]);
        model.graph.as_mut().unwrap().initializer.extend([most, least]);
        model
    };
    let apart = vec![0f32, 0.0, 1.0, 1.0, 5.0, 5.0, 6.0, 6.0];
    let given = [
        ("boxes", Tensor::new(&[1, 2, 4], apart).unwrap()),
        ("scores", Tensor::new(&[1, 1, 2], vec![0.25f32, 0.75]).unwrap()),
    ];
    let graph = import(&boxes(&["boxes", "scores", "most"])).unwrap();
    let shape = &graph.value_type(graph.outputs()[0]).shape;
    assert_eq!(shape, &[Dim::Unknown, Dim::Fixed(3)]);
    let all = evaluate(&boxes(&["boxes", "scores", "most"]), &given);
    assert_eq!(all, [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]);
    assert_eq!(
        evaluate(&boxes(&["boxes", "scores", "most", "", "least"]), &given),
        [0.0, 0.0, 1.0]
    );
    // None is asked for.
    assert!(evaluate(&boxes(&["boxes", "scores"]), &given).is_empty());
}

#[test]
fn older_regions_lie_on_whole_pixels() {
    let pooled = |version: i64| {
        let align = node("RoiAlign", &["x", "regions", "images"], &["y"]);
        let align = with(align, int("sampling_ratio", 1));
        let given = vec![typed("x", 1, &[1, 1, 4, 4]), typed("regions", 1, &[1, 4])];
        let given = [given, vec![typed("images", 7, &[1])]].concat();
        let mut model = model(given, vec![align], &["y"]);
        model.opset_import[0].version = Some(version);
        let x = Tensor::from_fn(&[1, 1, 4, 4], |index| index as f32);
        let regions = Tensor::new(&[1, 4], vec![0f32, 0.0, 3.0, 3.0]).unwrap();
        let images = Tensor::new(&[1], vec![0i64]).unwrap();
        evaluate(&model, &[("x", x), ("regions", regions), ("images", images)])
    };
    assert_eq!(pooled(10), [7.5]);
    assert_eq!(pooled(16), [5.0]);
}

#[test]
fn modes_of_grids_have_two_names() {
    let read = |mode: &str| {
        let sample = with(node("GridSample", &["x", "grid"], &["y"]), text("mode", mode));
        let sample = with(sample, int("align_corners", 1));
        let given = vec![typed("x", 1, &[1, 1, 1, 3]), typed("grid", 1, &[1, 1, 1, 2])];
        model(given, vec![sample], &["y"])
    };
    let given = [
        ("x", Tensor::new(&[1, 1, 1, 3], vec![1f32, 2.0, 4.0]).unwrap()),
        ("grid", Tensor::new(&[1, 1, 1, 2], vec![0.5f32, 0.0]).unwrap()),
    ];
    for names in [["linear", "bilinear"], ["cubic", "bicubic"]] {
        let both = names.map(|mode| evaluate(&read(mode), &given));
        assert_eq!(both[0], both[1]);
    }
    assert_eq!(evaluate(&read("linear"), &given), [3.0]);
    let error = import(&read("lanczos")).unwrap_err().to_string();
    assert_eq!(error, "node `y` (GridSample): mode = `lanczos` is not supported");
}

#[test]
fn grids_have_the_size_asked_for() {
    let mut model = model(
        vec![typed("theta", 1, &[1, 2, 3])],
        vec![node("AffineGrid", &["theta", "size"], &["y"])],
        &["y"],
    );
    let mut size = floats("size", &[4], &[]);
    (size.data_type, size.int64_data) = (Some(7), vec![1, 5, 1, 2]);
    model.graph.as_mut().unwrap().initializer.push(size);
    let graph = import(&model).unwrap();
    assert_eq!(dim::display(&graph.value_type(graph.outputs()[0]).shape), "[1, 1, 2, 2]");
    let theta = Tensor::new(&[1, 2, 3], vec![2f32, 0.0, 1.0, 0.0, 4.0, -1.0]).unwrap();
    assert_eq!(evaluate(&model, &[("theta", theta)]), [0.0, -1.0, 2.0, -1.0]);
}

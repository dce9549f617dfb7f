//! Single operators, with what is easily taken for something else.

use super::models::{import, int, model, node, typed, with};

#[test]
fn attention_with_a_window_is_refused() {
    let attention = |window: &str, size: i64| {
        let attention = with(node("Attention", &["x", "x", "x"], &["y"]), int(window, size));
        model(vec![typed("x", 1, &[1, 1, 3, 2])], vec![attention], &["y"])
    };
    for window in ["left_window_size", "right_window_size"] {
        assert!(import(&attention(window, -1)).is_ok());
        let error = import(&attention(window, 0)).unwrap_err().to_string();
        assert_eq!(error, format!("node `y` (Attention): {window} = 0 is not supported"));
    }
}

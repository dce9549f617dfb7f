//! The equation of an Einsum: which dimensions of its inputs are the same, and which are kept.

use std::collections::BTreeMap;
use std::fmt;

/// What a dimension is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Label {
    /// One of those that an ellipsis stands for, counted from the last.
    Ellipsis(usize),
    /// One with a letter.
    Letter(char),
}

impl fmt::Display for Label {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ellipsis(place) => write!(formatter, "...[-{}]", place + 1),
            Self::Letter(letter) => write!(formatter, "{letter}"),
        }
    }
}

/// The labels of every input's dimensions and of the output's.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Equation {
    pub(super) inputs: Vec<Vec<Label>>,
    pub(super) output: Vec<Label>,
}

/// One term as it is written: the letters, and how many of them stand before an ellipsis.
struct Term {
    letters: Vec<char>,
    ellipsis: Option<usize>,
}

impl Equation {
    /// Reads `text` for inputs of these numbers of dimensions.
    ///
    /// # Errors
    ///
    /// Says what was expected and what was found.
    pub(super) fn parse(text: &str, ranks: &[usize]) -> Result<Self, String> {
        let compact: String = text.chars().filter(|letter| !letter.is_whitespace()).collect();
        let (left, right) = match compact.split_once("->") {
            Some((left, right)) => (left, Some(Term::parse(right)?)),
            None => (compact.as_str(), None),
        };
        let terms: Vec<Term> = left.split(',').map(Term::parse).collect::<Result<_, _>>()?;
        if terms.len() != ranks.len() {
            let (expected, found) = (terms.len(), ranks.len());
            return Err(format!("expected the {expected} inputs of `{text}`, found {found}"));
        }
        let mut inputs = Vec::new();
        let mut widest = 0;
        for (index, (term, &rank)) in terms.iter().zip(ranks).enumerate() {
            let named = term.letters.len();
            let hidden = rank.checked_sub(named).filter(|&n| n == 0 || term.ellipsis.is_some());
            let hidden = hidden.ok_or_else(|| {
                format!("expected {named} dimensions of input {index} as in `{text}`, found {rank}")
            })?;
            widest = widest.max(hidden);
            inputs.push(term.labels(hidden));
        }
        let output = match right {
            Some(term) => term.checked_output(text, &inputs, widest)?,
            None => implicit_output(&inputs, widest),
        };
        Ok(Self { inputs, output })
    }
}

impl Term {
    fn parse(text: &str) -> Result<Self, String> {
        let (before, after) = match text.split_once("...") {
            Some((before, after)) => (before, Some(after)),
            None => (text, None),
        };
        let letters: Vec<char> = before.chars().chain(after.unwrap_or("").chars()).collect();
        match letters.iter().find(|letter| !letter.is_ascii_alphabetic()) {
            Some(found) => Err(format!("expected letters and one `...`, found `{found}`")),
            None => Ok(Self { letters, ellipsis: after.map(|_| before.len()) }),
        }
    }

    /// The labels where the ellipsis stands for `hidden` dimensions.
    fn labels(&self, hidden: usize) -> Vec<Label> {
        let place = self.ellipsis.unwrap_or(0);
        let letters = |letters: &[char]| letters.iter().copied().map(Label::Letter).collect();
        let before: Vec<Label> = letters(&self.letters[..place]);
        let hidden: Vec<Label> = (0..hidden).rev().map(Label::Ellipsis).collect();
        [before, hidden, letters(&self.letters[place..])].concat()
    }

    fn checked_output(
        &self,
        text: &str,
        inputs: &[Vec<Label>],
        widest: usize,
    ) -> Result<Vec<Label>, String> {
        if widest > 0 && self.ellipsis.is_none() {
            return Err(format!("expected `...` in the output of `{text}`, found none"));
        }
        let labels = self.labels(widest);
        for (place, label) in labels.iter().enumerate() {
            if labels[..place].contains(label) {
                return Err(format!("expected `{label}` once in the output of `{text}`"));
            }
            if !inputs.iter().any(|input| input.contains(label)) {
                return Err(format!("expected an input of `{text}` with `{label}`, found none"));
            }
        }
        Ok(labels)
    }
}

/// What an ellipsis stands for, and then the letters that stand once, in the order of ASCII.
fn implicit_output(inputs: &[Vec<Label>], widest: usize) -> Vec<Label> {
    let mut counts: BTreeMap<Label, usize> = BTreeMap::new();
    for &label in inputs.iter().flatten().filter(|label| matches!(label, Label::Letter(_))) {
        *counts.entry(label).or_default() += 1;
    }
    let once = counts.into_iter().filter(|&(_, count)| count == 1).map(|(label, _)| label);
    (0..widest).rev().map(Label::Ellipsis).chain(once).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equations_are_read() {
        let check = |text: &str, ranks: &[usize], inputs: &[&str], output: &str| {
            let found = Equation::parse(text, ranks).unwrap();
            let show = |labels: &[Label]| labels.iter().map(Label::to_string).collect::<String>();
            assert_eq!(found.inputs.iter().map(|x| show(x)).collect::<Vec<_>>(), inputs, "{text}");
            assert_eq!(show(&found.output), output, "{text}");
        };
        check("ij,jk", &[2, 2], &["ij", "jk"], "ik");
        check(" b i , i B ", &[2, 2], &["bi", "iB"], "Bb");
        check("ii->", &[2], &["ii"], "");
        check("i...j", &[4], &["i...[-2]...[-1]j"], "...[-2]...[-1]ij");
        check("...i,...->...", &[1, 1], &["i", "...[-1]"], "...[-1]");
        check("a,b->ba", &[1, 1], &["a", "b"], "ba");
    }

    #[test]
    fn what_is_wrong_is_said() {
        let check = |text: &str, ranks: &[usize], expected: &str| {
            let error = Equation::parse(text, ranks).unwrap_err();
            assert_eq!(error, expected);
        };
        check("ij,jk", &[2], "expected the 2 inputs of `ij,jk`, found 1");
        check("ij->i", &[3], "expected 2 dimensions of input 0 as in `ij->i`, found 3");
        check("ijk", &[2], "expected 3 dimensions of input 0 as in `ijk`, found 2");
        check("i1", &[2], "expected letters and one `...`, found `1`");
        check("i..", &[2], "expected letters and one `...`, found `.`");
        check("i->j", &[1], "expected an input of `i->j` with `j`, found none");
        check("i->ii", &[1], "expected `i` once in the output of `i->ii`");
        check("i...->i", &[2], "expected `...` in the output of `i...->i`, found none");
        check("i->j->k", &[1], "expected letters and one `...`, found `-`");
    }
}

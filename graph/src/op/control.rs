//! Choice and repetition.

use serde::{Deserialize, Serialize};

use super::{Argument, OnnxForm, Operator, Subgraph, elements_of};
use crate::{Bindings, DType, Dim, Shape, Tensor, ValueType};

/// Most rounds of a loop that are run.
pub const ROUND_LIMIT: i64 = 100_000;

/// Levels of subgraphs up to which a value that grows is followed, instead of taken for one of any sizes.
const FOLLOWED_DEPTH: usize = 2;

/// One of two subgraphs, each with one output: `(condition, what the first branch reads…, what the
/// second reads…)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct If {
    /// What is run when the condition holds.
    pub then_branch: Subgraph,
    /// What is run otherwise.
    pub else_branch: Subgraph,
}

impl If {
    /// Condition, and inputs of each branch.
    fn parts<'a, T>(&self, inputs: &'a [T]) -> Result<(&'a T, &'a [T], &'a [T]), String> {
        let [condition, rest @ ..] = inputs else { return Err("expected a condition".to_owned()) };
        let split = rest.split_at_checked(self.then_branch.inputs.len());
        let (then_inputs, else_inputs) = split.ok_or("expected what the branches read")?;
        Ok((condition, then_inputs, else_inputs))
    }
}

/// The only element of a truth value.
fn holds(condition: &Tensor) -> Result<bool, String> {
    match elements_of::<bool>(condition)? {
        [condition] => Ok(*condition),
        elements => Err(format!("expected one truth value, found {}", elements.len())),
    }
}

/// A type that has every value of `a` and `b`.
fn joined(a: &ValueType, b: &ValueType) -> Result<ValueType, String> {
    if a.dtype != b.dtype || a.shape.len() != b.shape.len() {
        return Err(format!("expected one type and rank, found {a} and {b}"));
    }
    let dim = |(a, b): (&Dim, &Dim)| if a == b { a.clone() } else { Dim::Unknown };
    Ok(ValueType { dtype: a.dtype, shape: a.shape.iter().zip(&b.shape).map(dim).collect() })
}

impl Operator for If {
    fn onnx_type(&self) -> &'static str {
        "If"
    }

    fn onnx(&self) -> OnnxForm {
        let first = 1 + self.then_branch.inputs.len();
        OnnxForm::default().subgraph("then_branch", &self.then_branch, 0, 1).subgraph(
            "else_branch",
            &self.else_branch,
            0,
            first,
        )
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let (condition, then_inputs, else_inputs) = self.parts(inputs)?;
        condition.expect(DType::Bool)?;
        let then_types = self.then_branch.infer(then_inputs)?;
        let else_types = self.else_branch.infer(else_inputs)?;
        match (then_types.as_slice(), else_types.as_slice()) {
            ([a], [b]) => joined(a, b),
            _ => Err("expected branches of one output".to_owned()),
        }
    }

    fn evaluate(&self, inputs: &[&Tensor], bindings: &Bindings) -> Result<Tensor, String> {
        let (condition, then_inputs, else_inputs) = self.parts(inputs)?;
        let outputs = if holds(condition)? {
            self.then_branch.evaluate(then_inputs, bindings)?
        } else {
            self.else_branch.evaluate(else_inputs, bindings)?
        };
        outputs.into_iter().next().ok_or_else(|| "the branch has no output".to_owned())
    }
}

/// A subgraph run again and again: `(most rounds, condition, first values of what is carried…, what
/// the body reads from outside…)`. The body gets the round, the condition, what is carried and what
/// it reads, and gives the next condition, what is carried on, and what is collected.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Loop {
    /// What is run.
    pub body: Subgraph,
    /// Number of values carried from round to round.
    pub carried: usize,
    /// Which of the outputs after the condition this is: a carried value's last state, or the list
    /// of a collected value's states.
    pub output: usize,
}

impl Loop {
    /// Rounds, condition, and what else the body gets.
    fn parts<'a, T>(&self, inputs: &'a [T]) -> Result<(&'a T, &'a T, &'a [T]), String> {
        match inputs {
            [rounds, condition, rest @ ..]
                if rest.len() >= self.carried && self.output + 1 < self.body.outputs.len() =>
            {
                Ok((rounds, condition, rest))
            }
            _ => Err("expected rounds, a condition and what is carried".to_owned()),
        }
    }

    /// Types of the body's outputs, when what is carried has these types at first.
    fn types(
        &self,
        carried: &[ValueType],
        outside: &[Argument<'_>],
    ) -> Result<Vec<ValueType>, String> {
        let round = ValueType { dtype: DType::I64, shape: Shape::new() };
        let condition = ValueType { dtype: DType::Bool, shape: Shape::new() };
        let of_type = |value_type| Argument { value_type, constant: None, integers: None };
        let own = [&round, &condition].into_iter().chain(carried).map(of_type);
        self.body.infer(&own.chain(outside.iter().copied()).collect::<Vec<_>>())
    }

    /// Types of what is carried that hold in every round, and of the body's outputs then.
    fn steady(&self, rest: &[Argument<'_>]) -> Result<(Vec<ValueType>, Vec<ValueType>), String> {
        let (first, outside) = rest.split_at(self.carried);
        let mut carried: Vec<ValueType> =
            first.iter().map(|argument| argument.value_type.clone()).collect();
        // Each try infers the body again, and that of every loop in it: a growing value is followed
        // where that is cheap.
        let tries = if self.body.depth() <= FOLLOWED_DEPTH { 2 } else { 1 };
        for last in (0..=tries).rev() {
            let types = self.types(&carried, outside)?;
            let after = types.get(1..=self.carried).ok_or("expected what the body carries on")?;
            let both = carried.iter().zip(after);
            let both = both.map(|(a, b)| joined(a, b)).collect::<Result<Vec<_>, _>>()?;
            if last == 0 || both == carried {
                types[0].expect(DType::Bool)?;
                return Ok((carried, types));
            }
            carried = both;
            if last == 1 {
                carried.iter_mut().for_each(|value_type| value_type.shape.fill(Dim::Unknown));
            }
        }
        unreachable!("the last try returns")
    }

    /// Types of what the body gets, in every round.
    ///
    /// # Errors
    ///
    /// When a node of the body refuses its inputs, or what is carried changes its type.
    pub fn given(&self, inputs: &[Argument<'_>]) -> Result<Vec<ValueType>, String> {
        let (rounds, condition, rest) = self.parts(inputs)?;
        let (carried, _) = self.steady(rest)?;
        let own = [rounds, condition]
            .map(|own| ValueType { shape: Shape::new(), ..own.value_type.clone() });
        let outside = rest[self.carried..].iter().map(|argument| argument.value_type.clone());
        Ok(own.into_iter().chain(carried).chain(outside).collect())
    }

    /// Number of rounds, where the body does not end them.
    fn rounds(&self, rounds: &Argument<'_>, condition: &Argument<'_>) -> Dim {
        let passes_on = self.body.outputs.first() == self.body.inputs.get(1);
        let holds = condition.constant.is_some_and(|condition| holds(condition) == Ok(true));
        match rounds.integers {
            Some([rounds]) if passes_on && holds => rounds.dim().unwrap_or(Dim::Fixed(0)),
            _ => Dim::Unknown,
        }
    }
}

impl Operator for Loop {
    fn onnx_type(&self) -> &'static str {
        "Loop"
    }

    fn onnx(&self) -> OnnxForm {
        let formals = 2 + self.carried;
        OnnxForm::default()
            .subgraph("body", &self.body, formals, formals)
            .output(self.output)
            .of_outputs(self.body.outputs.len() - 1)
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let (rounds, condition, rest) = self.parts(inputs)?;
        rounds.expect(DType::I64)?;
        condition.expect(DType::Bool)?;
        let (mut carried, mut types) = self.steady(rest)?;
        if self.output < self.carried {
            return Ok(carried.swap_remove(self.output));
        }
        let mut collected = types.swap_remove(1 + self.output);
        collected.shape.insert(0, self.rounds(rounds, condition));
        Ok(collected)
    }

    fn evaluate(&self, inputs: &[&Tensor], bindings: &Bindings) -> Result<Tensor, String> {
        let (rounds, condition, rest) = self.parts(inputs)?;
        let rounds = *elements_of::<i64>(rounds)?.first().ok_or("expected a number of rounds")?;
        let (first, outside) = rest.split_at(self.carried);
        let mut carried: Vec<Tensor> = first.iter().map(|&tensor| tensor.clone()).collect();
        let mut going = Tensor::scalar(holds(condition)?);
        let mut collected = Vec::new();
        let mut round = 0;
        while round < rounds && holds(&going)? {
            if round == ROUND_LIMIT {
                return Err(format!("expected at most {ROUND_LIMIT} rounds"));
            }
            let number = Tensor::scalar(round);
            let own = [&number, &going].into_iter().chain(&carried);
            let given: Vec<&Tensor> = own.chain(outside.iter().copied()).collect();
            let mut outputs = self.body.evaluate(&given, bindings)?;
            if self.output >= self.carried {
                collected.push(outputs.swap_remove(1 + self.output));
            }
            outputs.truncate(1 + self.carried);
            carried = outputs.split_off(1);
            going = outputs.swap_remove(0).reshaped(&[]).map_err(|error| error.to_string())?;
            round += 1;
        }
        if self.output < self.carried {
            return Ok(carried.swap_remove(self.output));
        }
        if collected.is_empty() {
            return self.nothing(&carried, outside);
        }
        stacked(&collected)
    }
}

impl Loop {
    /// What is collected in no round.
    fn nothing(&self, carried: &[Tensor], outside: &[&Tensor]) -> Result<Tensor, String> {
        let value_type = |tensor: &Tensor| ValueType {
            dtype: tensor.dtype(),
            shape: crate::dim::fixed(tensor.shape()),
        };
        let carried: Vec<ValueType> = carried.iter().map(value_type).collect();
        let types: Vec<ValueType> = outside.iter().map(|&tensor| value_type(tensor)).collect();
        let outside: Vec<Argument<'_>> = types
            .iter()
            .zip(outside)
            .map(|(value_type, &constant)| Argument {
                value_type,
                constant: Some(constant),
                integers: None,
            })
            .collect();
        let one = self.types(&carried, &outside)?.swap_remove(1 + self.output);
        let sizes = one.shape.iter().map(|dim| dim.fixed().unwrap_or(0));
        let shape: Vec<usize> = std::iter::once(0).chain(sizes).collect();
        Ok(Tensor::zeros(one.dtype, &shape))
    }
}

/// Tensors of one shape under a new first dimension.
///
/// # Errors
/// When there is none, or one has another shape.
pub fn stacked(parts: &[Tensor]) -> Result<Tensor, String> {
    let [first, ..] = parts else { return Err("expected a part".to_owned()) };
    if parts.iter().any(|part| part.shape() != first.shape()) {
        return Err("a collected value changes its shape".to_owned());
    }
    let bytes: Vec<u8> = parts.iter().flat_map(|part| part.bytes()).copied().collect();
    let shape = [&[parts.len()], first.shape()].concat();
    Tensor::from_bytes(first.dtype(), &shape, &bytes).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{Op, SubgraphNode};

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    /// Adds `step` to `sum` each round and collects the sums.
    fn sums(output: usize) -> Loop {
        let op = Op::Add;
        let node = SubgraphNode { name: "next".into(), op, inputs: names(&["sum", "step"]) };
        let body = Subgraph {
            inputs: names(&["round", "going", "sum", "step"]),
            nodes: vec![node],
            outputs: names(&["going", "next", "next"]),
        };
        Loop { body, carried: 1, output }
    }

    #[test]
    fn loops_carry_and_collect() {
        let (rounds, going) = (Tensor::scalar(3i64), Tensor::scalar(true));
        let (sum, step) = (Tensor::new(&[1], vec![10f32]).unwrap(), Tensor::scalar(2f32));
        let run = |output, rounds: &Tensor| {
            sums(output).evaluate(&[rounds, &going, &sum, &step], &Bindings::default()).unwrap()
        };
        assert_eq!(run(0, &rounds).elements::<f32>().unwrap(), [16.0]);
        assert_eq!(run(1, &rounds).elements::<f32>().unwrap(), [12.0, 14.0, 16.0]);
        assert_eq!(run(1, &rounds).shape(), [3, 1]);
        let none = Tensor::scalar(0i64);
        assert_eq!(run(0, &none).elements::<f32>().unwrap(), [10.0]);
        assert_eq!(run(1, &none).shape(), [0, 1]);
    }

    #[test]
    fn only_what_grows_has_unknown_sizes() {
        let concat = Op::Concat(crate::op::Concat { axis: 0 });
        let node = SubgraphNode { name: "list".into(), op: concat, inputs: names(&["all", "x"]) };
        let body = Subgraph {
            inputs: names(&["round", "going", "all", "x"]),
            nodes: vec![node],
            outputs: names(&["going", "list", "x"]),
        };
        let [rounds, going] =
            [DType::I64, DType::Bool].map(|dtype| ValueType { dtype, shape: Shape::new() });
        let x = ValueType { dtype: DType::F32, shape: vec![1.into(), 4.into()] };
        let argument = |value_type| Argument { value_type, constant: None, integers: None };
        let inputs = [&rounds, &going, &x, &x].map(argument);
        let given = Loop { body, carried: 2, output: 0 }.given(&inputs).unwrap();
        assert_eq!(given[2].shape, [Dim::Unknown, 4.into()]);
        assert_eq!(given[3], x);
    }

    #[test]
    fn endless_loops_end() {
        let (rounds, going) = (Tensor::scalar(i64::MAX), Tensor::scalar(true));
        let (sum, step) = (Tensor::new(&[1], vec![1f32]).unwrap(), Tensor::scalar(2f32));
        let run = sums(0).evaluate(&[&rounds, &going, &sum, &step], &Bindings::default());
        assert!(run.unwrap_err().contains("rounds"));
    }

    #[test]
    fn documents_hold_subgraphs_and_depth_is_bounded() {
        let op = Op::Loop(sums(1));
        let text = serde_json::to_string(&op).unwrap();
        assert_eq!(serde_json::from_str::<Op>(&text).unwrap(), op);
        let mut nested = Op::Identity;
        for _ in 0..9 {
            let node = SubgraphNode { name: "y".into(), op: nested, inputs: names(&["c", "x"]) };
            let branch =
                Subgraph { inputs: names(&["c", "x"]), nodes: vec![node], outputs: names(&["y"]) };
            nested = Op::If(If { then_branch: branch.clone(), else_branch: branch });
            // Both branches would double the work at each level.
            if let Op::If(op) = &mut nested {
                op.else_branch.nodes.clear();
                op.else_branch.outputs = names(&["x"]);
            }
        }
        let bool_type = ValueType { dtype: DType::Bool, shape: Shape::new() };
        let argument = Argument { value_type: &bool_type, constant: None, integers: None };
        let error = nested.operator().infer(&[argument; 5]).unwrap_err();
        assert!(error.contains("nested"), "{error}");
    }
}

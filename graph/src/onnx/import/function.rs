//! Functions of a model: a node that calls one becomes the function's nodes.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    DEPTH_LIMIT, ImportError, Importer, NodeContext, Scope, opsets, own_domain, shortened,
};
use crate::onnx::proto;

/// What a node names a function by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FunctionKey {
    pub(super) domain: String,
    pub(super) name: String,
    pub(super) overload: String,
}

pub(super) type Functions<'a> = BTreeMap<FunctionKey, &'a proto::Function>;

/// The functions by what names them.
pub(super) fn table(functions: &[proto::Function]) -> Result<Functions<'_>, ImportError> {
    let mut table = Functions::new();
    for function in functions {
        let key = FunctionKey {
            domain: own_domain(function.domain.as_deref()),
            name: function.name().to_owned(),
            overload: function.overload().to_owned(),
        };
        if table.insert(key, function).is_some() {
            let reason = format!("function `{}` is there twice", function.name());
            return Err(ImportError::Malformed { reason });
        }
    }
    Ok(table)
}

impl<'a> Importer<'a> {
    /// Writes the function's nodes in the place of the node that calls it.
    pub(super) fn call(
        &mut self,
        node: &'a proto::NodeMessage,
        function: &'a proto::Function,
        scope: &mut Scope,
    ) -> Result<(), ImportError> {
        let context = NodeContext::new(self, scope, node)?;
        let (label, inputs) = (context.label().to_owned(), context.inputs().to_vec());
        let attributes = context.attributes(&function.attribute_proto)?;
        let mut inner = Scope {
            values: BTreeMap::new(),
            four_bits: BTreeMap::new(),
            absent: BTreeSet::new(),
            opsets: opsets(&function.opset_import)?,
            attributes,
            prefix: shortened(format!("{}{label}/", scope.prefix)),
            depth: deeper(scope.depth)?,
        };
        for (index, name) in function.input.iter().enumerate() {
            match inputs.get(index).copied().flatten() {
                Some(id) => drop(inner.values.insert(name.clone(), id)),
                None => drop(inner.absent.insert(name.clone())),
            }
        }
        self.nodes(&function.node, &mut inner)?;
        for (name, output) in function.output.iter().zip(&node.output) {
            let id = inner.values.get(name).ok_or_else(|| ImportError::Node {
                node: label.clone(),
                op: function.name().to_owned(),
                reason: format!("the function does not write its output `{name}`"),
            })?;
            if !output.is_empty() {
                scope.values.insert(output.clone(), *id);
            }
        }
        Ok(())
    }
}

/// One level deeper.
pub(super) fn deeper(depth: usize) -> Result<usize, ImportError> {
    let found = depth + 1;
    if found > DEPTH_LIMIT {
        return Err(ImportError::Limit { what: "nested calls", limit: DEPTH_LIMIT, found });
    }
    Ok(found)
}

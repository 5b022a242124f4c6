//! Orders of columns, folded into the layer before.

use super::tensors::{Edit, Side, Tensors};
use super::{Changed, TransformError};
use crate::architecture::{self, Attention, Feed, Gated, Linear};
use crate::checkpoint::source::ModelSource;
use std::collections::{BTreeMap, BTreeSet};

/// What [`permute`] did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Permuted {
    /// The tensors of which columns or rows have another order now. The configuration stays as it is.
    pub changed: Changed,
    /// The orders that could not be folded, by the names of the weights, which are as they were. A permuted format
    /// ([`WeightFormat::is_permuted`](lowbit::format::WeightFormat::is_permuted)) can have them.
    pub left: BTreeMap<String, Vec<usize>>,
}

/// Reorders columns of weights, and the rows of the layer before that make them, where the network computes exactly
/// the same afterwards. Column j of a weight becomes the column that `orders` has at place j for its name.
///
/// - An order for the second layer of a feed-forward block (`down`) is folded into the rows of `up` and `gate`.
/// - An order for the output of attention is folded into the rows of the values if it moves columns within their
///   heads only, and in the same way in all heads that share a head of values.
/// - Any other order is left: the input is normalized, or it is the residual stream, which others read.
///
/// # Errors
/// Returns [`TransformError::NoLinear`], [`TransformError::WrongLength`] or [`TransformError::NoOrder`] for an
/// order that is none of a weight of the model, and other errors if the model is not one of floats.
pub fn permute(
    source: &dyn ModelSource,
    orders: &BTreeMap<String, Vec<usize>>,
) -> Result<Permuted, TransformError> {
    let blueprint = architecture::read(source)?;
    let mut tensors = Tensors::new(source)?;
    let inputs = blueprint.inputs();
    let known: BTreeSet<&str> =
        inputs.iter().flatten().map(|linear| &*linear.matrix.tensor).collect();
    for name in orders.keys() {
        if !known.contains(name.as_str()) {
            return Err(TransformError::NoLinear { name: name.clone() });
        }
    }
    let mut left = orders.clone();
    let find = |linear: &Linear| orders.get(&linear.matrix.tensor);
    for layer in &blueprint.layers {
        let attention = &layer.attention;
        let Attention { kv_heads, head_dim, value, output, .. } = attention;
        if let Some(order) = find(output) {
            check(&tensors, output, order)?;
            if let Some(rows) = of_values(order, attention.heads, *kv_heads, *head_dim) {
                fold(&mut tensors, &[value], rows, output, order);
                left.remove(&output.matrix.tensor);
            }
        }
        let blocks: Vec<(Vec<&Linear>, &Linear)> = match &layer.feed {
            Feed::Plain { up, down, .. } => vec![(vec![up], down)],
            Feed::Gated(block) => vec![parts(block)],
            Feed::Experts { experts, .. } => experts.iter().map(parts).collect(),
        };
        for (ups, down) in blocks {
            if let Some(order) = find(down) {
                check(&tensors, down, order)?;
                fold(&mut tensors, &ups, order.clone(), down, order);
                left.remove(&down.matrix.tensor);
            }
        }
    }
    for linear in inputs.into_iter().flatten() {
        if let Some(order) = left.get(&linear.matrix.tensor) {
            check(&tensors, linear, order)?;
        }
    }
    let changed = Changed { tensors: tensors.finish()?, config: None }.check(source)?;
    Ok(Permuted { changed, left })
}

fn parts(block: &Gated) -> (Vec<&Linear>, &Linear) {
    (vec![&block.gate, &block.up], &block.down)
}

/// Checks that an order has each column of a weight once.
fn check(tensors: &Tensors<'_>, linear: &Linear, order: &[usize]) -> Result<(), TransformError> {
    let name = || linear.matrix.tensor.clone();
    let (_, need) = tensors.size(&linear.matrix)?;
    if order.len() != need {
        let have = order.len();
        return Err(TransformError::WrongLength { name: name(), what: "places", have, need });
    }
    let mut all = order.to_vec();
    all.sort_unstable();
    if all.into_iter().eq(0..need) { Ok(()) } else { Err(TransformError::NoOrder { name: name() }) }
}

/// Returns the order of the rows of the values by that of the columns of the output, or `None` if there is none
/// that is exact.
fn of_values(
    order: &[usize],
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
) -> Option<Vec<usize>> {
    let group = heads.checked_div(kv_heads)?;
    let mut rows = Vec::new();
    for (head, columns) in order.chunks(head_dim.max(1)).enumerate() {
        let own = head.checked_div(group)?;
        let row = |column: &usize| {
            let inside = column.checked_sub(head * head_dim).filter(|inside| *inside < head_dim);
            inside.map(|inside| own * head_dim + inside)
        };
        let columns = columns.iter().map(row).collect::<Option<Vec<usize>>>()?;
        match rows.get(own * head_dim..(own + 1) * head_dim) {
            None => rows.extend(columns),
            Some(first) if *first == columns[..] => {}
            Some(_) => return None,
        }
    }
    Some(rows)
}

/// Reorders the rows of some layers and the columns of the one that takes their outputs.
fn fold(
    tensors: &mut Tensors<'_>,
    before: &[&Linear],
    rows: Vec<usize>,
    after: &Linear,
    order: &[usize],
) {
    for linear in before {
        let outputs = Side::Chosen(rows.clone());
        if let Some(bias) = &linear.bias {
            tensors.edit_vector(bias, None, outputs.clone());
        }
        tensors.edit(&linear.matrix, Edit { outputs, ..Edit::default() });
    }
    let inputs = Side::Chosen(order.to_vec());
    tensors.edit(&after.matrix, Edit { inputs, ..Edit::default() });
}

//! Which tensors a blueprint names, and what each of them does.

use super::{
    Attention, Blueprint, Embedding, Feed, Gated, Layer, Linear, Matrix, Norm, Norms,
    RotaryScaling, Vector,
};
use crate::checkpoint::source::Role;
use std::collections::BTreeMap;

/// The tensors and their roles. A tensor that has several, as a head that is tied to the embedding, has the
/// first of them.
pub(super) type Names<'a> = BTreeMap<&'a str, Role>;

pub(super) fn of_blueprint<'a>(blueprint: &'a Blueprint, names: &mut Names<'a>) {
    of_embedding(&blueprint.embedding, names);
    for Layer { attention, attention_norms, feed, feed_norms } in &blueprint.layers {
        of_attention(attention, names);
        of_norms(attention_norms, names);
        of_feed(feed, names);
        of_norms(feed_norms, names);
    }
    of_norm(blueprint.final_norm.as_ref(), names);
    of_linear(blueprint.head.as_ref().map(|head| &head.linear), Role::Head, names);
}

fn of_matrix<'a>(matrix: Option<&'a Matrix>, role: Role, names: &mut Names<'a>) {
    let Some(Matrix { tensor, rows, .. }) = matrix else { return };
    // Rows of one tensor that form several matrices.
    let merged = match names.get(tensor.as_str()) {
        Some(first) if rows.is_some() => merged(*first, role),
        _ => None,
    };
    match merged {
        Some(both) => names.insert(tensor, both),
        None => Some(*names.entry(tensor).or_insert(role)),
    };
}

/// Returns the role of a tensor that has the matrices of two.
fn merged(first: Role, second: Role) -> Option<Role> {
    match (first, second) {
        (Role::Query, Role::Key | Role::Value) => Some(Role::QueryKeyValue),
        (Role::Gate, Role::Up) => Some(Role::GateUp),
        _ => None,
    }
}

fn of_vector<'a>(vector: Option<&'a Vector>, role: Role, names: &mut Names<'a>) {
    if let Some(vector) = vector {
        names.entry(&vector.tensor).or_insert(role);
    }
}

fn of_linear<'a>(linear: Option<&'a Linear>, role: Role, names: &mut Names<'a>) {
    let Some(Linear { matrix, bias }) = linear else { return };
    of_matrix(Some(matrix), role, names);
    of_vector(bias.as_ref(), Role::Bias, names);
}

fn of_norm<'a>(norm: Option<&'a Norm>, names: &mut Names<'a>) {
    let Some(Norm { weight, bias, .. }) = norm else { return };
    of_vector(Some(weight), Role::Norm, names);
    of_vector(bias.as_ref(), Role::Bias, names);
}

fn of_norms<'a>(Norms { input, output, sum }: &'a Norms, names: &mut Names<'a>) {
    for norm in [input, output, sum] {
        of_norm(norm.as_ref(), names);
    }
}

fn of_embedding<'a>(embedding: &'a Embedding, names: &mut Names<'a>) {
    let Embedding { tokens, scale: _, positions, types, norm, projection } = embedding;
    of_matrix(Some(tokens), Role::TokenEmbedding, names);
    let positions = positions.as_ref().map(|(matrix, _)| matrix);
    of_matrix(positions, Role::PositionEmbedding, names);
    of_matrix(types.as_ref(), Role::TypeEmbedding, names);
    of_norm(norm.as_ref(), names);
    of_linear(projection.as_ref(), Role::EmbeddingProjection, names);
}

fn of_attention<'a>(attention: &'a Attention, names: &mut Names<'a>) {
    for (linear, role) in [
        (&attention.query, Role::Query),
        (&attention.key, Role::Key),
        (&attention.value, Role::Value),
        (&attention.output, Role::AttentionOutput),
    ] {
        of_linear(Some(linear), role, names);
    }
    of_norm(attention.query_norm.as_ref(), names);
    of_norm(attention.key_norm.as_ref(), names);
    if let Some(rotary) = &attention.rotary
        && let RotaryScaling::Divisors(divisors) = &rotary.scaling
    {
        of_vector(Some(divisors), Role::RotaryDivisors, names);
    }
    let table = attention.relative_bias.as_ref().map(|bias| &bias.table);
    of_matrix(table, Role::PositionBias, names);
}

fn of_feed<'a>(feed: &'a Feed, names: &mut Names<'a>) {
    match feed {
        Feed::Plain { up, down, function: _ } => {
            of_linear(Some(up), Role::Up, names);
            of_linear(Some(down), Role::Down, names);
        }
        Feed::Gated(gated) => of_gated(gated, names),
        Feed::Experts { router, experts, .. } => {
            of_linear(Some(router), Role::Router, names);
            for expert in experts {
                of_gated(expert, names);
            }
        }
    }
}

fn of_gated<'a>(Gated { gate, up, down, function: _ }: &'a Gated, names: &mut Names<'a>) {
    for (linear, role) in [(gate, Role::Gate), (up, Role::Up), (down, Role::Down)] {
        of_linear(Some(linear), role, names);
    }
}

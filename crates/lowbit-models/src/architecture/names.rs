//! Which tensors a blueprint names.

use super::{
    Attention, Blueprint, Embedding, Feed, Gated, Layer, Linear, Matrix, Norm, Norms,
    RotaryScaling, Vector,
};
use std::collections::BTreeSet;

type Names<'a> = BTreeSet<&'a str>;

pub(super) fn of_blueprint<'a>(blueprint: &'a Blueprint, names: &mut Names<'a>) {
    of_embedding(&blueprint.embedding, names);
    for Layer { attention, attention_norms, feed, feed_norms } in &blueprint.layers {
        of_attention(attention, names);
        of_norms(attention_norms, names);
        of_feed(feed, names);
        of_norms(feed_norms, names);
    }
    of_norm(blueprint.final_norm.as_ref(), names);
    of_linear(blueprint.head.as_ref().map(|head| &head.linear), names);
}

fn of_matrix<'a>(matrix: Option<&'a Matrix>, names: &mut Names<'a>) {
    names.extend(matrix.map(|matrix| matrix.tensor.as_str()));
}

fn of_vector<'a>(vector: Option<&'a Vector>, names: &mut Names<'a>) {
    names.extend(vector.map(|vector| vector.tensor.as_str()));
}

fn of_linear<'a>(linear: Option<&'a Linear>, names: &mut Names<'a>) {
    let Some(Linear { matrix, bias }) = linear else { return };
    of_matrix(Some(matrix), names);
    of_vector(bias.as_ref(), names);
}

fn of_norm<'a>(norm: Option<&'a Norm>, names: &mut Names<'a>) {
    let Some(Norm { weight, bias, .. }) = norm else { return };
    of_vector(Some(weight), names);
    of_vector(bias.as_ref(), names);
}

fn of_norms<'a>(Norms { input, output, sum }: &'a Norms, names: &mut Names<'a>) {
    for norm in [input, output, sum] {
        of_norm(norm.as_ref(), names);
    }
}

fn of_embedding<'a>(embedding: &'a Embedding, names: &mut Names<'a>) {
    let Embedding { tokens, scale: _, positions, types, norm, projection } = embedding;
    of_matrix(Some(tokens), names);
    of_matrix(positions.as_ref().map(|(matrix, _)| matrix), names);
    of_matrix(types.as_ref(), names);
    of_norm(norm.as_ref(), names);
    of_linear(projection.as_ref(), names);
}

fn of_attention<'a>(attention: &'a Attention, names: &mut Names<'a>) {
    for linear in [&attention.query, &attention.key, &attention.value, &attention.output] {
        of_linear(Some(linear), names);
    }
    of_norm(attention.query_norm.as_ref(), names);
    of_norm(attention.key_norm.as_ref(), names);
    if let Some(rotary) = &attention.rotary
        && let RotaryScaling::Divisors(divisors) = &rotary.scaling
    {
        of_vector(Some(divisors), names);
    }
    of_matrix(attention.relative_bias.as_ref().map(|bias| &bias.table), names);
}

fn of_feed<'a>(feed: &'a Feed, names: &mut Names<'a>) {
    match feed {
        Feed::Plain { up, down, function: _ } => {
            of_linear(Some(up), names);
            of_linear(Some(down), names);
        }
        Feed::Gated(gated) => of_gated(gated, names),
        Feed::Experts { router, experts, .. } => {
            of_linear(Some(router), names);
            for expert in experts {
                of_gated(expert, names);
            }
        }
    }
}

fn of_gated<'a>(Gated { gate, up, down, function: _ }: &'a Gated, names: &mut Names<'a>) {
    for linear in [gate, up, down] {
        of_linear(Some(linear), names);
    }
}

//! Rotation: the part of QuaRot (Ashkboos et al., 2024) that is folded into the weights.
//!
//! The residual stream r becomes Q·r for an orthogonal matrix Q, a Hadamard matrix with random signs. What
//! writes to the stream is multiplied by Q, and what reads from it by Qᵀ:
//!
//! | matrix | becomes |
//! |---|---|
//! | embeddings of tokens and positions E `[rows, hidden]` | E·Qᵀ |
//! | queries, keys, gate, up, router, head | W·diag(w)·Qᵀ |
//! | values | (I ⊗ H)·W·diag(w)·Qᵀ |
//! | output of attention | Q·W·(I ⊗ H)ᵀ |
//! | down | Q·W |
//!
//! Here w is the weight of the normalization before the layer, whose own weight becomes 1, and H is a Hadamard
//! matrix that rotates each head of the values. Biases are multiplied by what W is multiplied by from the left.
//!
//! An RMS normalization without its weight commutes with every orthogonal matrix. A layer normalization also
//! subtracts the mean, so Q must leave the vector of ones as it is; it then commutes too, and the network needs
//! no other kind of normalization. Its offset b is folded into the biases of the layers that follow, which gain
//! W·b. If they have none, as the head of GPT-2, it stays as Q·(b/w).

use super::hadamard::Hadamard;
use super::tensors::{Edit, Rotation, Side, Tensors};
use super::{Changed, TransformError, World, settings};
use crate::architecture::{self, Attention, Blueprint, Feed, Gated, Layer, Linear, Norm, NormKind};
use crate::checkpoint::source::ModelSource;
use lowbit::reference::philox;
use serde_json::Value;
use std::sync::Arc;

/// Rotates a model. It computes the same as before, up to the rounding of the new weights to f32, which happens
/// once; `seed` chooses the signs. A head that has the embedding's matrix gets one of its own.
///
/// # Errors
/// Returns [`TransformError::Refused`] for models without a head, and for those that normalize the residual stream
/// itself, such as BERT, or what is added to it, such as Gemma 3: factors then stand where no layer follows into
/// which they could be folded. Returns [`TransformError::Order`] if there is no Hadamard matrix of the hidden size
/// or the size of a head, and other errors if the model is not one of valid floats.
pub fn rotate(source: &dyn ModelSource, seed: u64) -> Result<Changed, TransformError> {
    let blueprint = architecture::read(source)?;
    let kind = check(&blueprint)?;
    let (world, mut config) = settings(source);
    let residual = residual(blueprint.hidden, kind, seed)?;
    let mut model = Rotated { tensors: Tensors::new(source)?, residual: Side::Rotated(residual) };
    model.embed(&blueprint);
    for layer in &blueprint.layers {
        model.layer(layer)?;
    }
    let untied = model.head(&blueprint, world)?;
    let config = (untied && world == World::Hf).then(|| {
        if let Value::Object(config) = &mut config {
            config.insert("tie_word_embeddings".to_owned(), Value::Bool(false));
        }
        config
    });
    Changed { tensors: model.tensors.finish()?, config }.check(source)
}

/// Checks that a model can be rotated, and returns how it normalizes its residual stream.
fn check(blueprint: &Blueprint) -> Result<NormKind, TransformError> {
    let refused = |why: &str| {
        let (family, why) = (blueprint.family, why.to_owned());
        Err(TransformError::Refused { family, change: "rotated", why })
    };
    let blocks =
        blueprint.layers.iter().flat_map(|layer| [&layer.attention_norms, &layer.feed_norms]);
    if blueprint.embedding.norm.is_some() || blocks.clone().any(|norms| norms.sum.is_some()) {
        return refused(
            "it normalizes the residual stream itself, so the factors of its normalizations are not followed by \
             a linear layer into which they could be folded",
        );
    }
    if blocks.clone().any(|norms| norms.output.is_some()) {
        return refused(
            "it normalizes what blocks add to the residual stream, and the factors of these normalizations stand \
             between the rotated output and the stream",
        );
    }
    let (Some(last), Some(_)) = (&blueprint.final_norm, &blueprint.head) else {
        return refused("it has no head, so that its output would be rotated");
    };
    let alike = |norm: &Option<Norm>| norm.as_ref().is_some_and(|norm| norm.kind == last.kind);
    if blueprint.embedding.projection.is_some() || !blocks.clone().all(|norms| alike(&norms.input))
    {
        return refused("its blocks do not all start with the same kind of normalization");
    }
    Ok(last.kind)
}

/// Returns the rotation of the residual stream.
fn residual(hidden: usize, kind: NormKind, seed: u64) -> Result<Arc<Rotation>, TransformError> {
    let hadamard = hadamard(hidden, "the hidden size")?;
    let key = [seed as u32, (seed >> 32) as u32];
    let sign = |at: usize| {
        let [words, bit] = [at / 32, at % 32];
        let word = philox([words as u32, 0, 0, 0], key)[0];
        if word >> bit & 1 == 1 { -1.0 } else { 1.0 }
    };
    let mut signs: Vec<f64> = (0..hidden).map(sign).collect();
    Ok(Arc::new(match kind {
        NormKind::Rms => Rotation::Signed(hadamard, signs),
        NormKind::Layer => {
            signs.iter_mut().take(1).for_each(|sign| *sign = 1.0);
            Rotation::Conjugated(hadamard, signs)
        }
    }))
}

fn hadamard(size: usize, what: &'static str) -> Result<Hadamard, TransformError> {
    Hadamard::new(size).ok_or_else(|| {
        let (below, above) = Hadamard::closest(size);
        TransformError::Order { size, what, below, above }
    })
}

/// A model that is being rotated.
struct Rotated<'a> {
    tensors: Tensors<'a>,
    /// What becomes of a side of a matrix that reads from the residual stream or writes to it.
    residual: Side,
}

/// The weight and offset of a normalization that are folded into what follows.
struct Folded {
    factors: Vec<f64>,
    offset: Option<Vec<f64>>,
}

impl Rotated<'_> {
    fn embed(&mut self, blueprint: &Blueprint) {
        let embedding = &blueprint.embedding;
        let positions = embedding.positions.as_ref().map(|(matrix, _)| matrix);
        let tables = [Some(&embedding.tokens), positions, embedding.types.as_ref()];
        for table in tables.into_iter().flatten() {
            let edit = Edit { inputs: self.residual.clone(), ..Edit::default() };
            self.tensors.edit(table, edit);
        }
    }

    fn layer(&mut self, layer: &Layer) -> Result<(), TransformError> {
        let Attention { head_dim, query, key, value, output, .. } = &layer.attention;
        // Sums of rows of values are weighted alike in all columns of a head, so that a rotation of a head passes
        // through attention.
        let signs = vec![1.0; *head_dim];
        let heads = Rotation::Signed(hadamard(*head_dim, "the size of a head")?, signs);
        let heads = Side::Rotated(Arc::new(heads));
        let after = [(query, Side::Same), (key, Side::Same), (value, heads.clone())];
        self.read(layer.attention_norms.input.as_ref(), &after)?;
        self.write(output, heads);
        match &layer.feed {
            Feed::Plain { up, down, .. } => {
                self.read(layer.feed_norms.input.as_ref(), &[(up, Side::Same)])?;
                self.write(down, Side::Same);
            }
            Feed::Gated(Gated { gate, up, down, .. }) => {
                let after = [(gate, Side::Same), (up, Side::Same)];
                self.read(layer.feed_norms.input.as_ref(), &after)?;
                self.write(down, Side::Same);
            }
            Feed::Experts { router, experts, .. } => {
                let pairs = experts.iter().flat_map(|expert| [&expert.gate, &expert.up]);
                let all = std::iter::once(router).chain(pairs);
                let after: Vec<_> = all.map(|linear| (linear, Side::Same)).collect();
                self.read(layer.feed_norms.input.as_ref(), &after)?;
                for expert in experts {
                    self.write(&expert.down, Side::Same);
                }
            }
        }
        Ok(())
    }

    /// Rotates the head, and returns whether it had the embedding's matrix and has one of its own now.
    fn head(&mut self, blueprint: &Blueprint, world: World) -> Result<bool, TransformError> {
        let (Some(norm), Some(head)) = (&blueprint.final_norm, &blueprint.head) else {
            return Ok(false);
        };
        let (matrix, tokens) = (&head.linear.matrix, &blueprint.embedding.tokens);
        let after = [(&head.linear, Side::Same)];
        if matrix.tensor != tokens.tensor {
            self.read(Some(norm), &after)?;
            return Ok(false);
        }
        let folded = self.fold(norm, &after)?;
        let edit = self.reading(&folded, Side::Same);
        self.tensors.edit_into(&self.own_head(&tokens.tensor, world), matrix, edit);
        Ok(true)
    }

    /// Returns the name of a head's matrix, in a model with this embedding.
    fn own_head(&self, tokens: &str, world: World) -> String {
        match world {
            World::Gguf => "output.weight".to_owned(),
            World::Hf => {
                // A decoder may be a part of a larger model, which has the head beside it.
                let outer = tokens.strip_suffix("model.embed_tokens.weight").unwrap_or("");
                let beside = format!("{outer}lm_head.weight");
                if self.tensors.has(&beside) { beside } else { "lm_head.weight".to_owned() }
            }
        }
    }

    /// Folds a normalization into linear layers, which read from the residual stream and whose outputs become
    /// something else on the way.
    fn read(
        &mut self,
        norm: Option<&Norm>,
        after: &[(&Linear, Side)],
    ) -> Result<(), TransformError> {
        let Some(norm) = norm else { return Ok(()) };
        let folded = self.fold(norm, after)?;
        for (linear, outputs) in after {
            let edit = self.reading(&folded, outputs.clone());
            self.tensors.edit(&linear.matrix, edit);
            let Some(bias) = &linear.bias else { continue };
            let more = folded.offset.as_deref().map(|b| self.product(linear, b)).transpose()?;
            if more.is_some() || matches!(outputs, Side::Rotated(_)) {
                self.tensors.edit_vector(bias, more, outputs.clone());
            }
        }
        Ok(())
    }

    fn reading(&self, folded: &Folded, outputs: Side) -> Edit {
        Edit { factors: Some(folded.factors.clone()), inputs: self.residual.clone(), outputs }
    }

    /// Takes weight and offset out of a normalization.
    fn fold(&mut self, norm: &Norm, after: &[(&Linear, Side)]) -> Result<Folded, TransformError> {
        let own = f64::from(norm.weight_offset);
        let mut factors = self.tensors.vector(&norm.weight)?;
        self.tensors.replace(&norm.weight, vec![1.0 - own; factors.len()]);
        factors.iter_mut().for_each(|factor| *factor += own);
        let Some(bias) = &norm.bias else { return Ok(Folded { factors, offset: None }) };
        let mut offset = self.tensors.vector(bias)?;
        if after.iter().all(|(linear, _)| linear.bias.is_some()) {
            self.tensors.replace(bias, vec![0.0; offset.len()]);
            return Ok(Folded { factors, offset: Some(offset) });
        }
        for (channel, (offset, factor)) in offset.iter_mut().zip(&factors).enumerate() {
            if *factor == 0.0 && *offset != 0.0 {
                let name = norm.weight.tensor.clone();
                return Err(TransformError::ZeroFactor { name, channel });
            }
            *offset = if *offset == 0.0 { 0.0 } else { *offset / factor };
        }
        if let Side::Rotated(rotation) = &self.residual {
            rotation.apply(&mut offset);
        }
        self.tensors.replace(bias, offset);
        Ok(Folded { factors, offset: None })
    }

    /// Returns W·x.
    fn product(&self, linear: &Linear, x: &[f64]) -> Result<Vec<f64>, TransformError> {
        let (values, k) = self.tensors.matrix(&linear.matrix)?;
        let dot = |row: &[f32]| row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum();
        Ok(values.chunks_exact(k.max(1)).map(dot).collect())
    }

    /// Rotates a linear layer that writes to the residual stream.
    fn write(&mut self, linear: &Linear, inputs: Side) {
        let edit = Edit { factors: None, inputs, outputs: self.residual.clone() };
        self.tensors.edit(&linear.matrix, edit);
        if let Some(bias) = &linear.bias {
            self.tensors.edit_vector(bias, None, self.residual.clone());
        }
    }
}

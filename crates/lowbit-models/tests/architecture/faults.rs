//! Planted mistakes: each particularity of a blueprint, changed, must show in the results, or the models
//! would not tell whether it is read rightly.

use super::{LIMIT, cases, difference, open};
use lowbit::format::ActivationFunction;
use lowbit_models::architecture::{
    Attention, Blueprint, Feed, Layer, NormKind, Pairs, RotaryScaling, reference,
};
use lowbit_models::checkpoint::source::ModelSource;

/// The least difference that a fault makes, as a share of the largest result: far beyond [`LIMIT`].
const SEEN: f64 = 1e-6;

/// A change, which says whether it applies.
type Fault = (&'static str, fn(&mut Blueprint) -> bool);

fn layers(blueprint: &mut Blueprint, change: fn(&mut Layer) -> bool) -> bool {
    blueprint.layers.iter_mut().fold(false, |changed, layer| change(layer) | changed)
}

/// Changes something in the last layer's attention, so that nothing else hides it.
fn attention(blueprint: &mut Blueprint, change: fn(&mut Attention) -> bool) -> bool {
    blueprint.layers.last_mut().is_some_and(|layer| change(&mut layer.attention))
}

fn scaling(blueprint: &mut Blueprint, change: fn(&mut RotaryScaling) -> bool) -> bool {
    let rotaries = blueprint.layers.iter_mut().filter_map(|layer| layer.attention.rotary.as_mut());
    rotaries.fold(false, |changed, rotary| change(&mut rotary.scaling) | changed)
}

const FAULTS: [Fault; 39] = [
    ("no window", |b| layers(b, |l| l.attention.window.take().is_some())),
    ("a wider window", |b| {
        layers(b, |l| l.attention.window.as_mut().map(|window| *window += 1).is_some())
    }),
    ("a window everywhere", |b| {
        let some = b.layers.iter().any(|layer| layer.attention.window.is_some());
        some && b.layers.iter_mut().fold(false, |changed, layer| {
            let full = layer.attention.window.is_none();
            layer.attention.window = layer.attention.window.or(Some(3));
            changed | full
        })
    }),
    ("no scaling", |b| {
        scaling(b, |s| std::mem::replace(s, RotaryScaling::None) != RotaryScaling::None)
    }),
    ("another factor", |b| {
        scaling(b, |s| match s {
            RotaryScaling::Linear(factor)
            | RotaryScaling::Llama3 { factor, .. }
            | RotaryScaling::Yarn { factor, .. } => {
                *factor *= 1.01;
                true
            }
            RotaryScaling::None | RotaryScaling::Divisors(_) => false,
        })
    }),
    ("another original context", |b| {
        scaling(b, |s| match s {
            RotaryScaling::Llama3 { original_context, .. }
            | RotaryScaling::Yarn { original_context, .. } => {
                *original_context *= 4.0;
                true
            }
            _ => false,
        })
    }),
    ("other wavelengths", |b| {
        scaling(b, |s| match s {
            RotaryScaling::Llama3 { low, high, .. } => {
                (*low, *high) = (*low * 0.9, *high * 1.1);
                true
            }
            _ => false,
        })
    }),
    ("other β", |b| {
        scaling(b, |s| match s {
            RotaryScaling::Yarn { beta_fast, beta_slow, .. } => {
                (*beta_fast, *beta_slow) = (*beta_fast / 4.0, *beta_slow / 4.0);
                true
            }
            _ => false,
        })
    }),
    ("another attention factor", |b| {
        scaling(b, |s| match s {
            RotaryScaling::Yarn { attention_factor, .. } => {
                *attention_factor = Some(1.5);
                true
            }
            _ => false,
        })
    }),
    ("the usual attention factor", |b| {
        scaling(b, |s| match s {
            RotaryScaling::Yarn { attention_factor, .. } => attention_factor.take().is_some(),
            _ => false,
        })
    }),
    ("another base", |b| {
        layers(b, |l| l.attention.rotary.as_mut().map(|rotary| rotary.base *= 1.01).is_some())
    }),
    ("other pairs", |b| {
        layers(b, |l| {
            let Some(rotary) = &mut l.attention.rotary else { return false };
            rotary.pairs = match rotary.pairs {
                Pairs::Adjacent => Pairs::Split,
                Pairs::Split => Pairs::Adjacent,
            };
            true
        })
    }),
    ("no rotation", |b| layers(b, |l| l.attention.rotary.take().is_some())),
    ("fewer columns rotated", |b| {
        layers(b, |l| match &mut l.attention.rotary {
            Some(rotary) if !matches!(rotary.scaling, RotaryScaling::Divisors(_)) => {
                rotary.dim -= 2;
                true
            }
            _ => false,
        })
    }),
    ("another scale", |b| {
        attention(b, |a| {
            a.scale *= 1.01;
            true
        })
    }),
    ("not causal", |b| attention(b, |a| std::mem::replace(&mut a.causal, false))),
    ("causal", |b| attention(b, |a| !std::mem::replace(&mut a.causal, true))),
    ("no norm of queries", |b| attention(b, |a| a.query_norm.take().is_some())),
    ("no norm of keys", |b| attention(b, |a| a.key_norm.take().is_some())),
    ("no bias of queries", |b| attention(b, |a| a.query.bias.take().is_some())),
    ("no bias of values", |b| attention(b, |a| a.value.bias.take().is_some())),
    ("no bias of the output", |b| attention(b, |a| a.output.bias.take().is_some())),
    ("keys and values swapped", |b| {
        attention(b, |a| {
            std::mem::swap(&mut a.key, &mut a.value);
            true
        })
    }),
    ("no relative bias", |b| layers(b, |l| l.attention.relative_bias.take().is_some())),
    ("a smaller distance", |b| {
        layers(b, |l| {
            l.attention.relative_bias.as_mut().map(|bias| bias.max_distance = 16).is_some()
        })
    }),
    ("another ε", |b| {
        b.final_norm
            .as_mut()
            .or(b.layers.last_mut().and_then(|layer| layer.feed_norms.sum.as_mut()))
            .map(|norm| norm.epsilon += 1e-4)
            .is_some()
    }),
    ("another kind of norm", |b| {
        layers(b, |l| {
            let norms = [&mut l.attention_norms.input, &mut l.attention_norms.sum];
            let mut norms = norms.into_iter().flatten();
            norms
                .next()
                .map(|norm| match norm.kind {
                    NormKind::Rms => norm.kind = NormKind::Layer,
                    NormKind::Layer => norm.kind = NormKind::Rms,
                })
                .is_some()
        })
    }),
    ("no offset of factors", |b| {
        let norm = b.final_norm.as_mut();
        norm.is_some_and(|norm| std::mem::take(&mut norm.weight_offset) != 0.0)
    }),
    ("no norm after attention", |b| layers(b, |l| l.attention_norms.output.take().is_some())),
    ("no norm after the block", |b| layers(b, |l| l.feed_norms.output.take().is_some())),
    ("an embedding that is not scaled", |b| std::mem::replace(&mut b.embedding.scale, 1.0) != 1.0),
    ("other positions", |b| b.embedding.positions.as_mut().map(|(_, first)| *first += 1).is_some()),
    ("no kinds of tokens", |b| b.embedding.types.take().is_some()),
    ("no norm of the embedding", |b| b.embedding.norm.take().is_some()),
    ("logits without a cap", |b| {
        b.head.as_mut().is_some_and(|head| head.soft_cap.take().is_some())
    }),
    ("the embedding as head", |b| {
        let tokens = b.embedding.tokens.clone();
        b.head.as_mut().is_some_and(|head| {
            std::mem::replace(&mut head.linear.matrix, tokens) != head.linear.matrix
        })
    }),
    ("another activation function", |b| {
        layers(b, |l| {
            let function = match &mut l.feed {
                Feed::Plain { function, .. } => function,
                Feed::Gated(gated) => &mut gated.function,
                Feed::Experts { experts, .. } => match experts.first_mut() {
                    Some(expert) => &mut expert.function,
                    None => return false,
                },
            };
            *function = match function {
                ActivationFunction::Gelu => ActivationFunction::GeluTanh,
                _ => ActivationFunction::Gelu,
            };
            true
        })
    }),
    ("one expert fewer", |b| {
        layers(b, |l| match &mut l.feed {
            Feed::Experts { used, .. } => {
                *used -= 1;
                true
            }
            _ => false,
        })
    }),
    ("other weights of experts", |b| {
        layers(b, |l| match &mut l.feed {
            Feed::Experts { normalize, .. } => {
                *normalize = !*normalize;
                true
            }
            _ => false,
        })
    }),
];

fn results(model: &dyn ModelSource, blueprint: &Blueprint) -> Vec<f64> {
    let tokens: Vec<u32> = (0..14).map(|at| 3 + at * 29 % 93).collect();
    let result = match blueprint.head {
        Some(_) => reference::logits(model, blueprint, &tokens),
        None => reference::hidden(model, blueprint, &tokens, &[true; 14]),
    };
    result.unwrap()
}

#[test]
fn every_particularity_is_seen() {
    let mut applied = vec![0; FAULTS.len()];
    let mut hidden = Vec::new();
    for case in cases() {
        let (model, blueprint) = open(&case);
        let right = results(&model, &blueprint);
        for ((fault, change), applied) in FAULTS.iter().zip(&mut applied) {
            let mut wrong = blueprint.clone();
            if !change(&mut wrong) {
                continue;
            }
            *applied += 1;
            let difference = difference(&results(&model, &wrong), &right);
            if difference < SEEN {
                hidden.push(format!("{}: {fault}: {difference:.1e}", case.display()));
            }
        }
    }
    let never = FAULTS.iter().zip(&applied).filter(|(_, applied)| **applied == 0);
    let never: Vec<_> = never.map(|((fault, _), _)| *fault).collect();
    assert!(never.is_empty(), "never applied: {never:?}");
    assert!(hidden.is_empty(), "not seen:\n{}", hidden.join("\n"));
    const { assert!(SEEN > 1e6 * LIMIT) };
}
